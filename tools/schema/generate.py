#!/usr/bin/env python3
"""Writes crates/api/src/schema/table.rs: every type of the Kubernetes API as constant Rust tables.

Three inputs, all from package registries or this directory:

  --pb    the unpacked source of the crate `k8s-pb` (messages, field numbers, wire types)
  --json  `_definitions.json` of one version in the PyPI package `kubernetes-validate`
          (JSON names, required fields, list types, keys, patch strategies, kinds)
  facts.txt beside this script: what the two leave open, which is whether a Go field is a pointer,
          whether it is left out when empty, and the name of its Go type where that is an alias.

    cargo info k8s-pb@0.9.0                          # unpacks it below ~/.cargo/registry/src
    pip download --no-deps kubernetes-validate && unzip kubernetes_validate-*.whl
    tools/schema/generate.py --pb DIR --json FILE > crates/api/src/schema/table.rs

With `--dump` it prints the table as text instead, one type a paragraph, for comparing and reviewing.
"""
import argparse, json, os, re, sys

# Module path below k8s-pb's src → (API group, version, prefix of the JSON definitions' names).
PACKAGES = {
    "apimachinery/pkg/apis/meta/v1": ("meta", "v1", "io.k8s.apimachinery.pkg.apis.meta.v1"),
    "apiextensions_apiserver/pkg/apis/apiextensions/v1": (
        "apiextensions.k8s.io", "v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"),
    "kube_aggregator/pkg/apis/apiregistration/v1": (
        "apiregistration.k8s.io", "v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1"),
}
for path, group in {
    "admission/v1": "admission.k8s.io", "admissionregistration/v1": "admissionregistration.k8s.io",
    "apidiscovery/v2": "apidiscovery.k8s.io", "apps/v1": "apps", "authentication/v1": "authentication.k8s.io",
    "authorization/v1": "authorization.k8s.io", "autoscaling/v1": "autoscaling", "autoscaling/v2": "autoscaling",
    "batch/v1": "batch", "certificates/v1": "certificates.k8s.io", "coordination/v1": "coordination.k8s.io",
    "core/v1": "", "discovery/v1": "discovery.k8s.io", "events/v1": "events.k8s.io",
    "flowcontrol/v1": "flowcontrol.apiserver.k8s.io", "networking/v1": "networking.k8s.io", "node/v1": "node.k8s.io",
    "policy/v1": "policy", "rbac/v1": "rbac.authorization.k8s.io", "resource/v1": "resource.k8s.io",
    "scheduling/v1": "scheduling.k8s.io", "storage/v1": "storage.k8s.io",
}.items():
    PACKAGES["api/" + path] = (group, path.split("/")[1], "io.k8s.api." + path.replace("/", "."))

# Messages whose JSON is not an object of their fields.
SPECIAL = {
    "apimachinery/pkg/apis/meta/v1/Time": "Time", "apimachinery/pkg/apis/meta/v1/MicroTime": "MicroTime",
    "apimachinery/pkg/apis/meta/v1/Duration": "Duration", "apimachinery/pkg/apis/meta/v1/FieldsV1": "FieldsV1",
    "apimachinery/pkg/apis/meta/v1/Verbs": "Strings", "apimachinery/pkg/api/resource/Quantity": "Quantity",
    "apimachinery/pkg/api/resource/QuantityValue": "Quantity", "apimachinery/pkg/util/intstr/IntOrString": "IntOrString",
    "apimachinery/pkg/runtime/RawExtension": "Raw", "api/authentication/v1/ExtraValue": "Strings",
    "api/authorization/v1/ExtraValue": "Strings", "api/certificates/v1/ExtraValue": "Strings",
    "apiextensions_apiserver/pkg/apis/apiextensions/v1/Json": "Json",
}
UNIONS = {"JsonSchemaPropsOrBool": "SchemaOrBool", "JsonSchemaPropsOrArray": "SchemaOrArray",
          "JsonSchemaPropsOrStringArray": "SchemaOrStrings"}
SKIP = {"apimachinery/pkg/apis/meta/v1/" + n for n in ("Timestamp", "Patch")} | {
    "api/core/v1/PodStatusResult"}
SCALARS = {"string": "Str", "bool": "Bool", "int32": "Int32", "int64": "Int64", "double": "Double", "bytes": "Bytes"}
FACTS = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "facts.txt")).read().splitlines()
EXTENSIONS = "apiextensions_apiserver/pkg/apis/apiextensions/v1/"


def messages(root, path):
    """(name, docs, [(field, prost attribute, rust type, docs)]) for each struct of one module."""
    text = open(os.path.join(root, "src", path, "mod.rs")).read()
    for m in re.finditer(r"pub struct (\w+) \{(|\n.*?\n)\}", text, re.S):
        fields = []
        for f in re.finditer(r"((?:\s*///[^\n]*\n)*)\s*#\[prost\((.*?)\)\]\s*(?:#\[.*?\]\s*)?pub (?:r#)?(\w+):\s*(.*?),\n(?=\s*(?:///|#\[|$))",
                             m.group(2), re.S):
            fields.append((f.group(3), f.group(2), re.sub(r"\s+", "", f.group(4)), f.group(1)))
        yield m.group(1), fields


def resolve(path, rust):
    """The message's path below src, from `super::super::x::Y` as written in module `path`."""
    here, parts = path.split("/"), rust.split("::")
    while parts[0] == "super":
        here.pop(); parts.pop(0)
    return "/".join(here + parts)


def plain(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def camel(snake):
    head, *tail = snake.strip("_").split("_")
    return head + "".join(t.capitalize() for t in tail)


class Field:
    def __init__(self, snake, attr, rust, docs, path):
        self.snake = snake.strip("_")
        self.number = int(re.search(r'tag = "(\d+)"', attr).group(1))
        kind = attr.split(",")[0].strip()
        self.shape = "One"
        if "repeated" in attr:
            self.shape = "List"
        if m := re.match(r'btree_map = "string, (\w+)"', attr):
            self.shape, kind = "Map", m.group(1)
        self.message = None
        if kind == "message":
            inner = re.sub(r"^.*?<(?:::prost::alloc::string::String,)?", "", rust.replace("::core::option::Option<", "<"))
            inner = inner.replace("::prost::alloc::boxed::Box<", "").replace("<", "").rstrip(">,")
            self.message = resolve(path, inner)
            self.kind = None
        else:
            self.kind = SCALARS.get(kind.split(" ")[0])
        self.docs = docs
        self.blank()

    def blank(self):
        self.json, self.inline, self.required = None, False, False
        self.list, self.keys, self.strategy, self.merge_key = "", [], "", ""
        self.pointer, self.omit, self.go, self.map_atomic = False, True, "", False

    def marks(self, prop):
        """List and patch marks, from the JSON definition or, where there is none, the comments."""
        tags = dict(re.findall(r"\+(listType|patchStrategy|patchMergeKey|mapType|structType)=(\S+)", self.docs))
        self.list = prop.get("x-kubernetes-list-type") or tags.get("listType", "")
        self.keys = prop.get("x-kubernetes-list-map-keys") or re.findall(r"\+listMapKey=(\S+)", self.docs)
        self.strategy = prop.get("x-kubernetes-patch-strategy") or tags.get("patchStrategy", "")
        self.merge_key = prop.get("x-kubernetes-patch-merge-key") or tags.get("patchMergeKey", "")
        self.map_atomic = "atomic" in (prop.get("x-kubernetes-map-type"), tags.get("mapType"), tags.get("structType"))


class Type:
    def __init__(self, path, package, name):
        self.path, self.name = path, name
        self.group, self.version, prefix = package
        self.definition = prefix + "." + name
        self.fields, self.meta, self.atomic, self.gvks = [], False, False, []


def load(root, definitions):
    types = {}
    for path, package in PACKAGES.items():
        for name, fields in messages(root, path):
            key = path + "/" + name
            if key in SPECIAL or key in SKIP or name in UNIONS:
                continue
            t = types[key] = Type(path, package, name)
            t.fields = [Field(*f, path) for f in fields]
    borrow(types, root)
    go_names(types, definitions)
    facts(types, FACTS, additions=True)
    inlined_names(types, definitions)
    for t in types.values():
        describe(t, types, definitions)
    return types


def borrow(types, root):
    """Types that are in the packages' messages only as v1beta1, with the same fields as in v1."""
    path, beta = "api/admissionregistration/v1", "api/admissionregistration/v1beta1"
    for name, fields in messages(root, beta):
        if name.startswith("MutatingAdmissionPolic") or name in ("ApplyConfiguration", "JsonPatch", "Mutation"):
            t = types[path + "/" + name] = Type(path, PACKAGES[path], name)
            t.fields = [Field(*f, path) for f in fields]


def go_names(types, definitions):
    """prost writes `AwsElasticBlockStore` for Go's `AWSElasticBlockStore`."""
    upstream = {d.lower(): d.split(".")[-1] for d in definitions}
    for t in types.values():
        t.name = upstream.get(t.definition.lower(), t.name)
        t.definition = t.definition.rsplit(".", 1)[0] + "." + t.name


def inlined_names(types, definitions):
    """JSON definitions know no inlined types: those take their names and marks from a type they are inlined in."""
    for t in types.values():
        t.schema = definitions.get(t.definition, {})
    for _ in range(2):
        for t in types.values():
            t.props = {plain(n): n for n in t.schema.get("properties", {})}
            for f in t.fields if t.props else ():
                if f.message in types and f.shape == "One" and plain(f.snake) not in t.props:
                    types[f.message].schema = types[f.message].schema or {k: t.schema[k] for k in ("properties", "required") if k in t.schema}


def describe(t, types, definitions):
    props = t.schema.get("properties", {})
    required = t.schema.get("required", [])
    t.atomic = t.schema.get("x-kubernetes-map-type") == "atomic"
    wire = {plain(f.snake) for f in t.fields}
    t.meta = t.definition in definitions and {"kind", "apiVersion"} <= set(props) and not wire & {"kind", "apiversion"}
    for f in t.fields:
        if f.message in SPECIAL:
            f.kind = SPECIAL[f.message]
        elif f.message and f.message.split("/")[-1] in UNIONS:
            f.kind = UNIONS[f.message.split("/")[-1]]
            f.message = EXTENSIONS + "JsonSchemaProps"
        elif f.message:
            f.kind = "Object"
        f.json = t.props.get(plain(f.snake))
        if f.json is None and props and f.kind == "Object" and f.shape == "One":
            f.inline, f.json = True, camel(f.snake)
        elif f.json is None:
            f.json = camel(f.snake)
        prop = props.get(f.json, {})
        f.required = f.json in required
        f.marks(prop)
        message = f.message is not None
        f.omit = not f.required
        f.pointer = message and f.shape == "One" and not f.required and not f.inline and f.snake not in (
            "metadata", "spec", "status")
        if message and f.shape == "One" and f.snake in ("metadata", "spec", "status"):
            f.omit = True


def facts(types, lines, additions):
    """Applies facts.txt: `TYPE [kind] [FIELD:MARKS …]`, and for what the messages lack
    `new TYPE` and `add TYPE FIELD NUMBER One|List|Map KIND`."""
    by_name = {(t.group or "core") + "/" + t.version + "." + t.name: (key, t) for key, t in types.items()}
    for line in lines:
        line = line.split("#")[0].split()
        if not line:
            continue
        if line[0] in ("new", "add", "drop"):
            if additions:
                add(types, by_name, line)
            continue
        if additions:
            continue
        t = by_name[line[0]][1]
        for word in line[1:]:
            if word == "kind":
                t.meta = True
                continue
            name, _, mark = word.partition(":")
            f = next((f for f in t.fields if plain(f.json) == plain(name)), None)
            if f is None:
                sys.exit(f"facts.txt: {line[0]} has no field {name}")
            f.json = name
            for c in re.findall(r"[*&!?zi]|=[\w.]+", mark):
                if c == "*": f.pointer = True
                elif c == "&": f.pointer = False
                elif c == "!": f.omit = False
                elif c == "?": f.omit = True
                elif c == "z": f.omit = "zero"
                elif c == "i": f.inline = not f.inline
                else: f.go = c[1:]


def add(types, by_name, line):
    name = line[1]
    if line[0] == "new":
        path = next(p for p, (g, v, _) in PACKAGES.items() if (g or "core") + "/" + v == name.rsplit(".", 1)[0])
        key = path + "/" + name.rsplit(".", 1)[1]
        t = types[key] = Type(path, PACKAGES[path], name.rsplit(".", 1)[1])
        by_name[name] = (key, t)
        return
    t = by_name[name][1]
    if line[0] == "drop":
        del types[by_name[name][0]]
        return
    field, number, shape, kind = line[2:6]
    if number == "-":
        t.fields = [f for f in t.fields if f.snake != field]
        return
    f = Field(field, f'tag = "{number}"', "", "", t.path) if kind in SCALARS.values() else None
    if f is None:
        f = Field.__new__(Field)
        f.snake, f.number, f.docs = field, int(number), ""
        f.blank()
        f.message = by_name[kind][0] if kind in by_name else next(k for k, v in SPECIAL.items() if v == kind)
    else:
        f.kind = kind
    f.shape = shape
    t.fields.append(f)


def gvks(types, definitions):
    """(group, version, kind) → type path: each type with inlined TypeMeta under its own group and version."""
    out = {}
    for key, t in types.items():
        if t.meta and t.group != "meta":
            out[(t.group, t.version, t.name)] = key
        if t.meta and t.group == "meta":
            out[("", "v1", t.name)] = key
            out[("meta.k8s.io", "v1", t.name)] = key
    return dict(sorted(out.items()))


def words(types, f):
    w = [f.json, str(f.number), f.shape, f.kind if f.kind != "Object" else types[f.message].name]
    w += ["*"] if f.pointer else []
    w += {True: ["omit"], False: [], "zero": ["omitzero"]}[f.omit]
    w += ["inline"] if f.inline else []
    w += ["required"] if f.required else []
    w += [f.list + "(" + ",".join(f.keys) + ")"] if f.list else []
    w += ["atomic"] if f.map_atomic else []
    w += ["patch=" + f.strategy + ":" + f.merge_key] if f.strategy else []
    w += ["go=" + f.go] if f.go else []
    return w


def dump(types):
    for t in types.values():
        print(f"{t.group or 'core'}/{t.version}.{t.name}" + (" kind" if t.meta else "") + (" atomic" if t.atomic else ""))
        for f in t.fields:
            print("   ", *words(types, f))


def rust(types, kinds):
    ident = {key: f"T{i}" for i, key in enumerate(types)}
    q = json.dumps
    out = ["//! Generated by `tools/schema/generate.py`; edit that, or its `facts.txt`, instead.", "",
           "use super::Kind::*;", "use super::{Type, f};", ""]
    for key, t in types.items():
        flags = f"meta: {str(t.meta).lower()}, atomic: {str(t.atomic).lower()}"
        out.append(f"static {ident[key]}: Type = Type {{ group: {q(t.group)}, version: {q(t.version)}, name: {q(t.name)}, "
                   f"definition: {q(t.definition)}, {flags}, fields: &[")
        for f in t.fields:
            kind = f.kind + (f"(&{ident[f.message]})" if f.kind == "Object" or f.kind in UNIONS.values() else "")
            flags = (1 * f.pointer) | (2 * (f.omit is True)) | (4 * (f.omit == "zero")) | (8 * f.inline) | (16 * f.required) | (
                32 * f.map_atomic)
            line = f"    f({q(f.json)}, {f.number}, {kind}, {flags})"
            if f.shape != "One":
                line += {"List": ".list()", "Map": ".map()"}[f.shape]
            if f.list == "atomic": line += ".atomic_list()"
            if f.list == "set": line += ".set()"
            if f.list == "map": line += ".keyed(&[" + ", ".join(map(q, f.keys)) + "])"
            if f.strategy: line += f".patch({q(f.strategy)}, {q(f.merge_key)})"
            if f.go: line += f".go({q(f.go)})"
            out.append(line + ",")
        out.append("] };")
    out.append("\n/// Every type, in the order of its package.")
    out.append(f"pub static TYPES: [&Type; {len(types)}] = [" + ", ".join("&" + i for i in ident.values()) + "];")
    out.append("\n/// Kinds by group, version and kind, sorted for binary search.")
    out.append(f"pub(super) static KINDS: [(&str, &str, &str, &Type); {len(kinds)}] = [")
    out += [f"    ({q(g)}, {q(v)}, {q(k)}, &{ident[key]})," for (g, v, k), key in kinds.items()]
    out.append("];")
    return "\n".join(out)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--pb", required=True)
    a.add_argument("--json", required=True)
    a.add_argument("--dump", action="store_true")
    args = a.parse_args()
    definitions = json.load(open(args.json))["$defs"]
    types = load(args.pb, definitions)
    facts(types, FACTS, additions=False)
    if args.dump:
        dump(types)
    else:
        print(rust(types, gvks(types, definitions)))


if __name__ == "__main__":
    main()
