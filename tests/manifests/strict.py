"""`validate(object)`: what an API server with fieldValidation=Strict would refuse, offline.

Kinds of a CRD in ../shared/crds go by its schema, closed: a field that it does not declare is an
error, as are a metadata.name that is no DNS label and what the CRD's rules on names say; its other
CEL rules are not run. Built-in kinds go by kubernetes-validate's strict schemas. A kind that
neither knows is an error.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

CRDS = Path(__file__).parents[3] / "shared" / "crds"
KUBERNETES = "1.34"
METADATA = frozenset(
    {"name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"}
)
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Kinds whose webhook or CEL rule wants DNS-1035.
DNS_1035 = frozenset({"PyTorchJob", "TrainJob", "InferenceService"})


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Upstream's CRDs hold a plain `=`, which YAML 1.1 takes for a tag of its own."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)  # type: ignore[no-untyped-call]


def validate(found: Mapping[str, Any], crd: Path | None = None) -> list[str]:
    """Errors, each with the place; empty when the API server would take the object.

    `crd` is the file of another version's CRD.
    """
    api, kind = found.get("apiVersion", ""), found.get("kind", "")
    schema = _of(crd, kind, api.partition("/")[2]) if crd else _schema(api, kind)
    if schema is None:
        return _built_in(dict(found))
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(dict(found)),
        key=lambda e: list(map(str, e.path)),
    )
    return [
        *(f"{'.'.join(map(str, e.path)) or kind}: {e.message[:300]}" for e in errors),
        *_metadata(found),
    ]


def _metadata(found: Mapping[str, Any]) -> list[str]:
    metadata = found.get("metadata", {})
    name = metadata.get("name", "")
    errors = [f"metadata.{key}: unknown field" for key in metadata if key not in METADATA]
    if len(name) > (63 if found["kind"] in DNS_1035 else 253) or not NAME.fullmatch(name):
        errors.append(f"metadata.name: {name!r} is not a valid name")
    if found["kind"] in DNS_1035 and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        errors.append(f"metadata.name: {name!r} is not DNS-1035")
    errors += [
        f"metadata.labels.{k}: {v!r} is not a label"
        for k, v in metadata.get("labels", {}).items()
        if not LABEL.fullmatch(v)
    ]
    errors += [
        f"metadata.annotations.{k}: not a string"
        for k, v in metadata.get("annotations", {}).items()
        if not isinstance(v, str)
    ]
    return errors


def _built_in(found: dict[str, Any]) -> list[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path)) or found.get('kind')}: {error.message[:300]}"]
    except (kubernetes_validate.SchemaNotFoundError, KeyError) as error:
        return [f"{found.get('apiVersion')} {found.get('kind')}: no schema ({error!r})"]
    return []


@cache
def _schema(api: str, kind: str) -> Any:
    """The closed schema of a kind, None where no CRD has it."""
    group, _, wanted = api.partition("/")
    found = (_of(path, kind, wanted) for path in sorted(CRDS.glob(f"{group}_{kind.lower()}*.yaml")))
    return next((schema for schema in found if schema), None)


@cache
def _of(path: Path, kind: str, wanted: str) -> Any:
    """The closed schema that a CRD's file has of a kind's version, None where it has none."""
    for document in yaml.load_all(path.read_text(), _Loader):
        spec = (document or {}).get("spec", {})
        for version in spec.get("versions", []):
            if (spec["names"]["kind"], version["name"]) == (kind, wanted):
                schema = closed(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                }
                return schema
    return None


def closed(schema: Any) -> Any:
    """A schema with unknown fields refused wherever the API server would drop them."""
    if not isinstance(schema, dict):
        return schema
    made = copy.copy(schema)
    if isinstance(made.get("properties"), dict):
        made["properties"] = {name: closed(part) for name, part in made["properties"].items()}
    if "items" in made:
        made["items"] = closed(made["items"])
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(made["additionalProperties"])
    if made.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        made.pop("type", None)
    if made.get("x-kubernetes-embedded-resource"):
        made["properties"] = {
            **made.get("properties", {}),
            **{k: {} for k in ("apiVersion", "kind", "metadata")},
        }
    open_ended = made.get("x-kubernetes-preserve-unknown-fields")
    if made.get("type") == "object" and not open_ended:
        # An object without declared fields keeps none of what is put into it, but for metadata, whose schema is built in.
        made.setdefault("additionalProperties", False) if made.get("properties") else None
    if made.get("nullable"):
        return {"anyOf": [made, {"type": "null"}]}
    return made
