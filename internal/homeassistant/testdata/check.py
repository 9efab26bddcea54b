"""Plays the part of Home Assistant: validates announcements against the schema
with jsonschema, and renders templates with Jinja2, as Home Assistant does. It
reads {"announcements": [...], "render": [{"template", "payload", "state",
"value"}]} and writes {"faults": [...], "rendered": [...]}, each fault after the
place of its announcement."""

import json
import sys
import time

import jinja2.sandbox
import jsonschema

given = json.load(sys.stdin)
schema = json.load(open("testdata/discovery.schema.json", encoding="utf-8"))
validator = jsonschema.Draft7Validator(schema)
faults = []
for i, a in enumerate(given.get("announcements") or []):
    for e in validator.iter_errors(a):
        which = e
        if e.context:  # of the alternatives, that of the component's platform
            which = max(e.context, key=lambda c: len(c.absolute_path))
        faults.append(f"{i}: {a['topic']}: {'/'.join(map(str, e.absolute_path))}: {which.message[:300]}")
    for key, c in a["payload"]["components"].items():
        for name in ("value_template", "command_template"):
            try:
                jinja2.Environment().parse(c.get(name, ""))
            except jinja2.TemplateSyntaxError as e:
                faults.append(f"{i}: {a['topic']}: {key}: {name}: {e}")

env = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.Undefined)
env.filters["to_json"] = lambda v: json.dumps(v, ensure_ascii=False)
env.globals["now"] = time.time
env.globals["as_timestamp"] = lambda t: 1795215960.7
rendered = []
for r in given.get("render") or []:
    try:
        value_json = json.loads(r["payload"])
    except ValueError:
        value_json = None
    this = {"state": r.get("state", "unknown")}
    template = r["template"] or "{{ value }}"
    rendered.append(env.from_string(template).render(value=r.get("value", r["payload"]), value_json=value_json, this=this))
json.dump({"faults": faults, "rendered": rendered}, sys.stdout)
