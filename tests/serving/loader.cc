// Serves a SavedModel as TF Serving does, without Python: LoadSavedModel, then
// Session::Run of a signature, XLA disabled unless it is asked for.
//
//   loader MODEL TEXT_OPS REQUESTS RESPONSES [xla]
//
// REQUESTS is a TFRecord: for each request "signature count", then as many
// NamedTensorProto. RESPONSES likewise: "OK count" or "CODE message", then tensors.

#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"
#include "tensorflow/core/public/session.h"

namespace tensorflow {
void DisableXlaCompilation();
}

namespace {

using tensorflow::NamedTensorProto;
using tensorflow::SignatureDef;
using tensorflow::Tensor;

void Check(const tensorflow::Status& status, const char* what) {
  if (status.ok()) return;
  std::cerr << what << ": " << status << std::endl;
  std::exit(1);
}

// As TF Serving's Predict: every input of the signature must be there, and no other.
tensorflow::Status Run(const tensorflow::SavedModelBundle& bundle,
                       const std::string& name,
                       const std::vector<NamedTensorProto>& inputs,
                       std::vector<NamedTensorProto>* outputs) {
  auto found = bundle.GetSignatures().find(name);
  if (found == bundle.GetSignatures().end()) {
    return tensorflow::errors::InvalidArgument("no signature ", name);
  }
  const SignatureDef& signature = found->second;
  std::vector<std::pair<std::string, Tensor>> feeds;
  for (const NamedTensorProto& input : inputs) {
    auto info = signature.inputs().find(input.name());
    Tensor tensor;
    if (info == signature.inputs().end() || !tensor.FromProto(input.tensor())) {
      return tensorflow::errors::InvalidArgument("bad input ", input.name());
    }
    if (info->second.dtype() != tensor.dtype()) {
      return tensorflow::errors::InvalidArgument("bad dtype of ", input.name());
    }
    feeds.emplace_back(info->second.name(), tensor);
  }
  if (feeds.size() != static_cast<size_t>(signature.inputs_size())) {
    return tensorflow::errors::InvalidArgument("missing inputs of ", name);
  }
  std::vector<std::string> names, fetches;
  for (const auto& output : signature.outputs()) {
    names.push_back(output.first);
    fetches.push_back(output.second.name());
  }
  std::vector<Tensor> tensors;
  TF_RETURN_IF_ERROR(bundle.session->Run(feeds, fetches, {}, &tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    NamedTensorProto output;
    output.set_name(names[i]);
    if (tensors[i].dtype() == tensorflow::DT_STRING) {
      tensors[i].AsProtoField(output.mutable_tensor());
    } else {
      tensors[i].AsProtoTensorContent(output.mutable_tensor());
    }
    outputs->push_back(output);
  }
  return tensorflow::Status();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "loader MODEL TEXT_OPS REQUESTS RESPONSES [xla]" << std::endl;
    return 2;
  }
  if (argc < 6) tensorflow::DisableXlaCompilation();
  std::unique_ptr<TF_Status, void (*)(TF_Status*)> loaded(TF_NewStatus(),
                                                          TF_DeleteStatus);
  TF_LoadLibrary(argv[2], loaded.get());
  if (TF_GetCode(loaded.get()) != TF_OK) {
    std::cerr << TF_Message(loaded.get()) << std::endl;
    return 1;
  }
  tensorflow::SavedModelBundle bundle;
  Check(tensorflow::LoadSavedModel(tensorflow::SessionOptions(),
                                   tensorflow::RunOptions(), argv[1], {"serve"},
                                   &bundle),
        "load");

  tensorflow::Env* env = tensorflow::Env::Default();
  std::unique_ptr<tensorflow::RandomAccessFile> source;
  Check(env->NewRandomAccessFile(argv[3], &source), "requests");
  tensorflow::io::SequentialRecordReader reader(source.get());
  std::unique_ptr<tensorflow::WritableFile> target;
  Check(env->NewWritableFile(argv[4], &target), "responses");
  tensorflow::io::RecordWriter writer(target.get());

  tensorflow::tstring record;
  while (reader.ReadRecord(&record).ok()) {
    std::istringstream head{std::string(record)};
    std::string name;
    int count = 0;
    head >> name >> count;
    std::vector<NamedTensorProto> inputs(count), outputs;
    for (NamedTensorProto& input : inputs) {
      Check(reader.ReadRecord(&record), "input");
      input.ParseFromString(std::string(record));
    }
    tensorflow::Status status = Run(bundle, name, inputs, &outputs);
    std::ostringstream answer;
    if (status.ok()) {
      answer << "OK " << outputs.size();
    } else {
      answer << absl::StatusCodeToString(status.code()) << " " << status.message();
    }
    Check(writer.WriteRecord(answer.str()), "answer");
    for (const NamedTensorProto& output : outputs) {
      Check(writer.WriteRecord(output.SerializeAsString()), "output");
    }
  }
  Check(writer.Close(), "close");
  Check(target->Close(), "close");
  return 0;
}
