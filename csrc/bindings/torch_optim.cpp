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

// What `after` says of each parameter: its threshold, and the most its rows' norms may be (below 0: no bound).
std::vector<AfterUpdate> after_updates(const std::optional<Tensor>& after, const Tensors& parameters, const char* op) {
  std::vector<AfterUpdate> found(parameters.size());
  if (!after) return found;
  STD_TORCH_CHECK(after->is_cpu() && after->scalar_type() == ScalarType::Double && after->dim() == 2 &&
                      after->size(0) == int64_t(parameters.size()) && after->size(1) == 2 && dense_contiguous(*after),
                  op, ": expected after to be a contiguous matrix of float64 on the CPU with ", parameters.size(),
                  " rows (shrink, bound), but got shape ", shape_text(*after));
  const double* values = after->const_data_ptr<double>();
  for (std::size_t i = 0; i < parameters.size(); ++i, values += 2) {
    const int64_t size = parameters[i].numel(), rows = parameters[i].dim() ? parameters[i].size(0) : 1;
    STD_TORCH_CHECK(values[0] >= 0, op, ": expected a threshold of 0 or more, but got ", values[0]);
    STD_TORCH_CHECK(values[1] == values[1], op, ": expected a bound that is a number, but got NaN");
    found[i] = {float(values[0]), float(values[1]), values[1] >= 0 && size ? size / rows : 0};
  }
  return found;
}

void sgd_step(Tensors parameters, const Tensors& gradients, Tensors momentum_buffers, double lr, double momentum,
              double dampening, double weight_decay, bool nesterov, bool maximize, bool first, double scale,
              const std::optional<Tensor>& after) {
  const char* op = "sgd_step_";
  const bool buffers = momentum != 0;
  check_list(gradients, parameters, op, "gradients");
  if (buffers) check_list(momentum_buffers, parameters, op, "momentum_buffers");
  const std::vector<AfterUpdate> afters = after_updates(after, parameters, op);
  std::vector<SgdTensor> tensors;
  tensors.reserve(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    check_dense(parameters[i], op, "parameters");
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(),
                       buffers ? momentum_buffers[i].mutable_data_ptr<float>() : nullptr, first, afters[i]});
  }
  run(SgdStep{tensors.data(), int64_t(tensors.size()), lr, momentum, dampening, weight_decay, nesterov, maximize,
              scale});
}

void adam_step(Tensors parameters, const Tensors& gradients, Tensors exp_avgs, Tensors exp_avg_sqs, Tensors steps,
               double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
               double scale, const std::optional<Tensor>& after) {
  const char* op = "adam_step_";
  check_list(gradients, parameters, op, "gradients");
  check_list(exp_avgs, parameters, op, "exp_avgs");
  check_list(exp_avg_sqs, parameters, op, "exp_avg_sqs");
  check_steps(steps, parameters.size(), op);
  const std::vector<AfterUpdate> afters = after_updates(after, parameters, op);
  std::vector<AdamTensor> tensors;
  tensors.reserve(parameters.size());
  for (const Tensor& t : parameters) check_dense(t, op, "parameters");
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    float& step = *steps[i].mutable_data_ptr<float>();
    step += 1;
    tensors.push_back({parameters[i].numel(), parameters[i].mutable_data_ptr<float>(),
                       gradients[i].const_data_ptr<float>(), exp_avgs[i].mutable_data_ptr<float>(),
                       exp_avg_sqs[i].mutable_data_ptr<float>(), double(step), afters[i]});
  }
  run(AdamStep{tensors.data(), int64_t(tensors.size()), lr, beta1, beta2, eps, weight_decay, decoupled, maximize,
               scale});
}

Tensor sum_of_squares(const Tensors& tensors) {
  std::vector<SquaresTensor> list;
  list.reserve(tensors.size());
  int64_t pieces = 0;
  for (const Tensor& t : tensors) {
    check_dense(t, "sum_of_squares", "tensors");
    list.push_back({t.numel(), t.const_data_ptr<float>()});
    pieces += squares_pieces(t.numel());
  }
  std::vector<double> sums(static_cast<std::size_t>(pieces));
  run(Squares{list.data(), int64_t(list.size()), sums.data()});
  Tensor total = empty_strided({}, {}, ScalarType::Double);
  double& value = *total.mutable_data_ptr<double>() = 0;
  for (const double sum : sums) value += sum;
  return total;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def(
      "sgd_step_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] momentum_buffers, float lr, float momentum, "
      "float dampening, float weight_decay, bool nesterov, bool maximize, bool first, float scale=1.0, "
      "Tensor? after=None) -> ()");
  m.def(
      "adam_step_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] steps, float lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
      "bool maximize, float scale=1.0, Tensor? after=None) -> ()");
  m.def("sum_of_squares(Tensor[] tensors) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("sgd_step_", TORCH_BOX(&sgd_step));
  m.impl("adam_step_", TORCH_BOX(&adam_step));
  m.impl("sum_of_squares", TORCH_BOX(&sum_of_squares));
}

}  // namespace pyconvopt::binding
