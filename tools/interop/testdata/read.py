"""Reads payloads with Python's json and jsonschema, and resolves SenML packs
as RFC 8428, section 4.6 says. Each line of standard input is an object with a
kind (senml or json) and a payload as text; each line of standard output is what
was read, numbers as text so that no digit is lost, or {"error": ...}."""

import base64
import json
import sys
from decimal import Decimal

import jsonschema

schema = json.load(open(sys.argv[1], encoding="utf-8"))


def exact(text):
    return json.loads(text, parse_float=Decimal)


def resolve(pack):
    name, time = "", Decimal(0)
    for record in pack:
        name = record.get("bn", name)
        time = Decimal(record.get("bt", time))
        value = next(record[k] for k in ("v", "vs", "vb", "vd") if k in record)
        if "vd" in record:
            value = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
        yield {
            "name": name + record["n"],
            "unit": record.get("u", ""),
            "value": str(value),
            "time": str(time + Decimal(record.get("t", 0))),
        }


for line in sys.stdin:
    given = json.loads(line)
    try:
        read = exact(given["payload"])
        if given["kind"] == "senml":
            jsonschema.validate(json.loads(given["payload"]), schema)
            read = list(resolve(read))
            names = [r["name"] for r in read]
            assert len(set(names)) == len(names), "names are not unique"
        print(json.dumps(read, default=str))
    except Exception as e:
        print(json.dumps({"error": str(e)}))
