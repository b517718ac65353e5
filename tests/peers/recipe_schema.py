"""Holds documents against the JSON Schema of recipes, with the reader that editors and CI use.

    python tests/peers/recipe_schema.py SCHEMA.json DOCUMENT.yaml...

Checks the schema against its own meta-schema. Prints JSON: for each document `null`, or the first thing that is wrong with it.
"""

import json
import sys

import yaml
from jsonschema import Draft202012Validator


def main():
    schema = json.load(open(sys.argv[1]))
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"], schema["$schema"]
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    found = []
    for path in sys.argv[2:]:
        error = next(iter(validator.iter_errors(yaml.safe_load(open(path)))), None)
        found.append(error and f"{error.json_path}: {error.message}"[:200])
    print(json.dumps(found))


main()
