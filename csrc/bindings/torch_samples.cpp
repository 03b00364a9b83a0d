// torch.ops.pyconvopt: what a training loop does between two steps, in one call where torch needs several.
#include "samples.hpp"
#include "torch_tensor.hpp"

namespace pyconvopt::binding {
namespace {

void check_dense_cpu(const Tensor& t, const char* op, const char* argument) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() > 0 && (t.numel() == 0 || dense_contiguous(t)), op, ": expected ", argument,
                  " to be contiguous on the CPU, but got shape ", shape_text(t));
}

void check_numbers(const Tensor& t, const char* op, const char* argument) {
  check_dense_cpu(t, op, argument);
  STD_TORCH_CHECK(t.dim() == 1 && t.scalar_type() == ScalarType::Long, op, ": expected ", argument,
                  " to be a vector of int64, but got shape ", shape_text(t), " and scalar type ", int(t.scalar_type()));
}

int32_t dtype_of(const Tensor& t) {
  int32_t dtype = 0;
  STD_TORCH_CHECK(aoti_torch_get_dtype(t.get(), &dtype) == TORCH_SUCCESS, "a tensor does not tell its dtype");
  return dtype;
}

// Contiguous, of so many samples of another tensor.
Tensor empty_samples(const Tensor& of, int64_t count, int32_t dtype) {
  Sizes sizes = sizes_of(of), strides(sizes.size(), 1);
  sizes[0] = count;
  for (std::size_t d = sizes.size() - 1; d-- > 0;) strides[d] = strides[d + 1] * sizes[d + 1];
  return empty_strided(sizes, strides, dtype);
}

std::tuple<Tensor, Tensor> gather_samples(const Tensor& samples, const std::optional<Tensor>& labels,
                                          const Tensor& rows) {
  const char* op = "gather_samples";
  check_dense_cpu(samples, op, "samples");
  const bool bytes = samples.scalar_type() == ScalarType::Byte;
  STD_TORCH_CHECK(bytes || samples.scalar_type() == ScalarType::Float, op,
                  ": expected samples of dtype float32 or uint8, but got scalar type ", int(samples.scalar_type()));
  check_numbers(rows, op, "rows");
  const int64_t count = samples.size(0), batch = rows.size(0);
  const int64_t* numbers = rows.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < batch; ++i)
    STD_TORCH_CHECK(numbers[i] >= 0 && numbers[i] < count, op, ": expected rows of 0 ... ", count - 1, ", but got ",
                    numbers[i]);
  Gather gather{};
  gather.size = count ? samples.numel() / count : 0;
  gather.batch = batch;
  gather.rows = numbers;
  if (bytes) gather.bytes = samples.const_data_ptr<uint8_t>();
  else gather.floats = samples.const_data_ptr<float>();
  Tensor output = empty_samples(samples, batch, aoti_torch_dtype_float32());
  gather.output = output.mutable_data_ptr<float>();
  Tensor label_output = empty_vector(0);
  if (labels) {
    check_dense_cpu(*labels, op, "labels");
    STD_TORCH_CHECK(labels->size(0) == count, op, ": expected as many labels as samples, but got ", labels->size(0),
                    " and ", count);
    const int32_t dtype = dtype_of(*labels);
    label_output = empty_samples(*labels, batch, dtype);
    gather.labels = static_cast<const char*>(labels->data_ptr());
    gather.label_output = static_cast<char*>(label_output.data_ptr());
    gather.label_bytes = count ? labels->numel() / count * int64_t(aoti_torch_dtype_element_size(dtype)) : 0;
  }
  run(gather);
  return {output, label_output};
}

int64_t right_answers_of(const Tensor& outputs, const Tensor& labels) {
  const char* op = "right_answers";
  check_float32_cpu(outputs, op, "outputs");
  check_dense_cpu(outputs, op, "outputs");
  check_numbers(labels, op, "labels");
  STD_TORCH_CHECK(outputs.dim() == 2 && outputs.size(0) == labels.size(0) && outputs.size(1) > 0, op,
                  ": expected outputs of shape (N, columns), at least one column, and labels of shape (N,), but got ",
                  shape_text(outputs), " and ", shape_text(labels));
  return right_answers(outputs.const_data_ptr<float>(), outputs.size(0), outputs.size(1),
                       labels.const_data_ptr<int64_t>());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyconvopt, m) {
  m.def("gather_samples(Tensor samples, Tensor? labels, Tensor rows) -> (Tensor samples, Tensor labels)");
  m.def("right_answers(Tensor outputs, Tensor labels) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(pyconvopt, CPU, m) {
  m.impl("gather_samples", TORCH_BOX(&gather_samples));
  m.impl("right_answers", TORCH_BOX(&right_answers_of));
}

}  // namespace pyconvopt::binding
