"""Message classes made from `messages.proto` as the program starts: no generated code, no TensorFlow.

They live in a descriptor pool of their own, so that a process may also import TensorFlow's.
"""

import re
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_NAME = "messages.proto"
_MESSAGE = re.compile(r"message (\w+) \{(.*?)\}", re.DOTALL)
_FIELD = re.compile(r"(repeated )?(?:map<string, (\w+)>|(\w+)) (\w+) = (\d+);")


def _file(text: str) -> FileDescriptorProto:
    """What protoc would make of the text; it knows the few constructs that `messages.proto` uses."""
    package = re.search(r"package ([\w.]+);", text)
    assert package is not None
    file = FileDescriptorProto(name=_NAME, syntax="proto3", package=package[1])
    for name, body in _MESSAGE.findall(text):
        message = file.message_type.add(name=name)
        for repeated, value_type, plain_type, field, number in _FIELD.findall(body):
            if value_type:
                plain_type = f"{name}.{_add_map_entry(message, field, value_type, file.package)}"
            _add_field(message, field, int(number), plain_type, bool(repeated or value_type), file.package)
    return file


def _add_map_entry(message: DescriptorProto, field: str, value_type: str, package: str) -> str:
    """A map is a repeated message of key and value, by a name that protobuf prescribes."""
    entry = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, "string", False, package)
    _add_field(entry, "value", 2, value_type, False, package)
    return str(entry.name)


def _add_field(
    message: DescriptorProto, name: str, number: int, type_name: str, repeated: bool, package: str
) -> None:
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if type_name[0].islower():
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{type_name.upper()}")
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{package}.{type_name}"


_pool = DescriptorPool()
_pool.AddSerializedFile(_file(files(__package__).joinpath(_NAME).read_text("utf-8")).SerializeToString())


def _class(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(f"recommender.client.{name}"))


PredictRequest: Any = _class("PredictRequest")
PredictResponse: Any = _class("PredictResponse")
GetModelMetadataRequest: Any = _class("GetModelMetadataRequest")
GetModelMetadataResponse: Any = _class("GetModelMetadataResponse")
SignatureDefMap: Any = _class("SignatureDefMap")
GetModelStatusRequest: Any = _class("GetModelStatusRequest")
GetModelStatusResponse: Any = _class("GetModelStatusResponse")
