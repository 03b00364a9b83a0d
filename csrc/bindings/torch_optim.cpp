// torch.ops.pyconvopt: optimiser steps in place over lists of tensors.
#include "dispatch.hpp"
#include "optim.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {
namespace {

using Tensors = std::vector<Tensor>;

void check_list(const Tensors& list, const Tensors& parameters, const char* op, const char* argument) {
  STD_TORCH_CHECK(list.size() == parameters.size(), op, ": expected as many ", argument, " as parameters, but got ",
                  list.size(), " and ", parameters.size());
  for (std::size_t i = 0; i < list.size(); ++i) check_like(list[i], parameters[i], op, argument);
}

void sgd_step(Tensors parameters, const Tensors& gradients, Tensors momentum_buffers, double lr, double momentum,
              double dampening, double weight_decay, bool nesterov, bool maximize, bool first) {
  const char* op = "sgd_step_";
  const bool buffers = momentum != 0;
  check_list(gradients, parameters, op, "gradients");
  if (buffers) check_list(momentum_buffers, parameters, op, "momentum_buffers");
  std::vector<SgdTensor> tensors;
  tensors.reserve(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    check_dense(parameters[i], op, "parameters");
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(),
                       buffers ? momentum_buffers[i].mutable_data_ptr<float>() : nullptr, first});
  }
  run(SgdStep{tensors.data(), int64_t(tensors.size()), lr, momentum, dampening, weight_decay, nesterov, maximize});
}

void adam_step(Tensors parameters, const Tensors& gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
               double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize) {
  const char* op = "adam_step_";
  check_list(gradients, parameters, op, "gradients");
  check_list(exp_avgs, parameters, op, "exp_avgs");
  check_list(exp_avg_sqs, parameters, op, "exp_avg_sqs");
  check_steps(steps, parameters.size(), op);
  std::vector<AdamTensor> tensors;
  tensors.reserve(parameters.size());
  for (const Tensor& t : parameters) check_dense(t, op, "parameters");
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    float& step = *steps[i].mutable_data_ptr<float>();
    step += 1;
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(), exp_avgs[i].mutable_data_ptr<float>(),
                       exp_avg_sqs[i].mutable_data_ptr<float>(), double(step)});
  }
  run(AdamStep{tensors.data(), int64_t(tensors.size()), lr, beta1, beta2, eps, weight_decay, decoupled, maximize});
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def(
      "sgd_step_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] momentum_buffers, float lr, float momentum, "
      "float dampening, float weight_decay, bool nesterov, bool maximize, bool first) -> ()");
  m.def(
      "adam_step_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, float lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
      "bool maximize) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("sgd_step_", TORCH_BOX(&sgd_step));
  m.impl("adam_step_", TORCH_BOX(&adam_step));
}

}  // namespace pyconvopt::binding
