// torch.ops.pyconvopt on CUDA tensors: optimiser steps in place; the tensors' addresses travel as kernel arguments.
#include "torch_cuda.hpp"

namespace pyconvopt::binding {
namespace {

using Tensors = std::vector<Tensor>;

void check_parameters(const Tensors& parameters, const char* op) {
  for (const Tensor& t : parameters) {
    check_float32_on_cuda(t, parameters[0], op, "parameters");
    STD_TORCH_CHECK(t.numel() == 0 || dense_contiguous(t) || (t.dim() == 4 && dense_channels_last(t)), op,
                    ": expected parameters to be contiguous or in dense channels_last memory format, but got shape ",
                    shape_text(t), " with other strides");
  }
}

void check_list(const Tensors& list, const Tensors& parameters, const char* op, const char* argument) {
  STD_TORCH_CHECK(list.size() == parameters.size(), op, ": expected as many ", argument, " as parameters, but got ",
                  list.size(), " and ", parameters.size());
  for (std::size_t i = 0; i < list.size(); ++i) check_like_on_cuda(list[i], parameters[i], op, argument);
}

void check_no_more(double scale, const std::optional<Tensor>& after, const char* op) {
  STD_TORCH_CHECK(scale == 1 && !after, op, ": scale and after are for tensors on the CPU");
}

void sgd_step(Tensors parameters, const Tensors& gradients, Tensors momentum_buffers, double lr, double momentum,
              double dampening, double weight_decay, bool nesterov, bool maximize, bool first, double scale,
              const std::optional<Tensor>& after) {
  const char* op = "sgd_step_";
  check_no_more(scale, after, op);
  const bool buffers = momentum != 0;
  if (parameters.empty()) return;
  check_parameters(parameters, op);
  check_list(gradients, parameters, op, "gradients");
  if (buffers) check_list(momentum_buffers, parameters, op, "momentum_buffers");
  std::vector<PyconvoptSgdTensor> tensors;
  tensors.reserve(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i)
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(),
                       buffers ? momentum_buffers[i].mutable_data_ptr<float>() : nullptr, first});
  const OnCuda gpu(parameters[0], op);
  gpu.launch(gpu.library().sgd, PyconvoptSgdStep{tensors.data(), int64_t(tensors.size()), lr, momentum, dampening,
                                                 weight_decay, nesterov, maximize});
}

void adam_step(Tensors parameters, const Tensors& gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
               double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
               double scale, const std::optional<Tensor>& after) {
  const char* op = "adam_step_";
  check_no_more(scale, after, op);
  if (parameters.empty()) return;
  check_parameters(parameters, op);
  check_list(gradients, parameters, op, "gradients");
  check_list(exp_avgs, parameters, op, "exp_avgs");
  check_list(exp_avg_sqs, parameters, op, "exp_avg_sqs");
  check_steps(steps, parameters.size(), op);
  const OnCuda gpu(parameters[0], op);
  std::vector<PyconvoptAdamTensor> tensors;
  tensors.reserve(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    float& step = *steps[i].mutable_data_ptr<float>();
    step += 1;
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(), exp_avgs[i].mutable_data_ptr<float>(),
                       exp_avg_sqs[i].mutable_data_ptr<float>(), double(step)});
  }
  gpu.launch(gpu.library().adam, PyconvoptAdamStep{tensors.data(), int64_t(tensors.size()), lr, beta1, beta2, eps,
                                                   weight_decay, decoupled, maximize});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CUDA, m) {
  m.impl("sgd_step_", TORCH_BOX(&sgd_step));
  m.impl("adam_step_", TORCH_BOX(&adam_step));
}

}  // namespace pyconvopt::binding
