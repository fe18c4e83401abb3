"""Writes fixtures/tracking/events.json: what TensorBoard's own writer puts into an event file, byte for byte, and what its
reader sees in it. Needs the package tensorboard."""
import base64
import json
import os
import tempfile

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.summary.writer.record_writer import RecordWriter

root = os.path.join(os.path.dirname(__file__), "../../fixtures/tracking")
text = TensorProto(
    dtype=7,
    tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    string_val=["| lr |\n| --- |\n| 1 |".encode()],
)
metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
events = [
    Event(wall_time=1700000000.25, file_version="brain.Event:2"),
    Event(
        wall_time=1700000001.5,
        step=1,
        summary=Summary(
            value=[
                Summary.Value(tag="train/loss", simple_value=2.5),
                Summary.Value(tag="train/learning_rate", simple_value=1e-3),
            ]
        ),
    ),
    Event(
        wall_time=1700000002.5,
        step=3000000000,
        summary=Summary(value=[Summary.Value(tag="eval/loss", simple_value=float("nan"))]),
    ),
    Event(
        wall_time=1700000000.25,
        summary=Summary(value=[Summary.Value(tag="config", metadata=metadata, tensor=text)]),
    ),
]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "events")
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
        writer.flush()
    data = open(path, "rb").read()
os.makedirs(root, exist_ok=True)
with open(os.path.join(root, "events.json"), "w") as file:
    json.dump({"bytes": base64.b64encode(data).decode()}, file, indent=2)
    file.write("\n")
print(len(data), "bytes")
