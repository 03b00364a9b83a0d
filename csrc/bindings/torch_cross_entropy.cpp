// torch.ops.pyconvopt: cross-entropy of softmax over a matrix of logits, with its gradient if that is wanted.
#include "cross_entropy.hpp"
#include "dispatch.hpp"
#include "torch_rows.hpp"

namespace pyconvopt::binding {
namespace {

CrossEntropy checked(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight, int64_t reduction,
                     int64_t ignore_index, double label_smoothing) {
  const char* op = "cross_entropy";
  check_float32_cpu(input, op, "input");
  STD_TORCH_CHECK(input.dim() == 2 && (input.numel() == 0 || dense_contiguous(input)), op,
                  ": expected input to be a contiguous matrix (N, C), but got shape ", shape_text(input));
  const int64_t rows = input.size(0), classes = input.size(1);
  STD_TORCH_CHECK(target.is_cpu() && target.scalar_type() == ScalarType::Long, op,
                  ": expected target of dtype int64 on the CPU, but got scalar type ", int(target.scalar_type()));
  STD_TORCH_CHECK(target.dim() == 1 && target.size(0) == rows && dense_contiguous(target), op,
                  ": expected target to be a contiguous vector of ", rows, " elements, but got shape ",
                  shape_text(target));
  if (weight) check_vector(*weight, classes, op, "weight");
  STD_TORCH_CHECK(reduction >= 0 && reduction < reductions, op, ": expected a reduction of 0 to ", reductions - 1,
                  ", but got ", reduction);
  STD_TORCH_CHECK(label_smoothing >= 0 && label_smoothing <= 1, op, ": expected label_smoothing in 0 to 1, but got ",
                  label_smoothing);
  const CrossEntropy problem{rows,
                             classes,
                             input.const_data_ptr<float>(),
                             target.const_data_ptr<int64_t>(),
                             data_or_null(weight),
                             ignore_index,
                             label_smoothing,
                             Reduction(reduction)};
  const int64_t wrong = problem.first_out_of_range();
  STD_TORCH_CHECK(wrong < 0, "Target ", problem.target[wrong], " is out of bounds: classes are 0 ... ", classes - 1,
                  ", or ignore_index ", ignore_index, ", in row ", wrong);
  return problem;
}

std::tuple<Tensor, Tensor> cross_entropy(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                                         int64_t reduction, int64_t ignore_index, double label_smoothing,
                                         bool gradient_needed) {
  CrossEntropy problem = checked(input, target, weight, reduction, ignore_index, label_smoothing);
  Tensor loss = problem.reduction == Reduction::none ? empty_vector(problem.rows) : empty_strided({}, {});
  Tensor gradient = gradient_needed ? empty_strided({problem.rows, problem.classes}, {problem.classes, 1}) : nothing();
  problem.loss = loss.mutable_data_ptr<float>();
  problem.gradient = gradient_needed ? gradient.mutable_data_ptr<float>() : nullptr;
  run(problem);
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def(
      "cross_entropy(Tensor input, Tensor target, Tensor? weight, int reduction, int ignore_index, "
      "float label_smoothing, bool gradient_needed) -> (Tensor loss, Tensor input_gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) { m.impl("cross_entropy", TORCH_BOX(&cross_entropy)); }

}  // namespace pyconvopt::binding
