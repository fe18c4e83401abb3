"""What changed in the signature of every ONNX operator from operator set 7 on (fixtures/onnx/opset-changes.json).

One entry per operator and version: inputs and outputs that came, went or became optional or mandatory, attributes that
came, went or have another default. Changes of types only are left out. Tests hold the upgrade pass against it.

Usage: python scripts/reference/make_opset_changes.py   (onnx; see requirements.txt)
"""

import json
from collections import defaultdict
from pathlib import Path

import onnx
from onnx import defs, helper

FILE = Path(__file__).resolve().parents[2] / "fixtures" / "onnx" / "opset-changes.json"


def options(parameters):
    return [str(parameter.option).rsplit(".", 1)[-1] for parameter in parameters]


def attributes(schema):
    def value(attribute):
        default = attribute.default_value
        return str(helper.get_attribute_value(default)) if default.name else None

    return {name: [attribute.required, value(attribute)] for name, attribute in schema.attributes.items()}


def changes(old, new):
    found = []
    if options(old.inputs) != options(new.inputs):
        found.append("inputs")
    if options(old.outputs) != options(new.outputs):
        found.append("outputs")
    before, after = attributes(old), attributes(new)
    found += [f"-{name}" for name in sorted(before) if name not in after]
    found += [f"+{name}" for name in sorted(after) if name not in before]
    found += [f"~{name}" for name in sorted(before) if name in after and before[name] != after[name]]
    return found + (["deprecated"] if new.deprecated else [])


def main():
    history = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            history[schema.name].append(schema)
    listed = []
    for name in sorted(history):
        versions = sorted(history[name], key=lambda schema: schema.since_version)
        for old, new in zip(versions, versions[1:]):
            what = changes(old, new)
            if new.since_version > 7 and what:
                listed.append({"op": name, "version": new.since_version, "changes": what})
    rows = ",\n  ".join(json.dumps(entry) for entry in listed)
    newest = onnx.defs.onnx_opset_version()
    FILE.write_text(f'{{"newest": {newest}, "changes": [\n  {rows}\n]}}\n')


if __name__ == "__main__":
    main()
