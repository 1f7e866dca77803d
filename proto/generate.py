"""Generates the Python stubs in `src/patchbay_proto` from `schema/`.

python proto/generate.py           # writes them
python proto/generate.py --check   # exits 1 and names the files that are stale
"""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
SCHEMA = HERE / "schema"
PACKAGE = HERE / "src" / "patchbay_proto" / "v1"

# protoc imports by schema path (`patchbay.v1`), which is the core's package: point it at ours.
_IMPORT = re.compile(r"\bpatchbay\.v1(?=[\s.]|$)")


def generate(target: Path) -> None:
    """Writes every stub module into `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        scripts = Path(sysconfig.get_path("scripts"))
        protos = sorted(str(path) for path in SCHEMA.rglob("*.proto"))
        services = {path.stem for path in SCHEMA.rglob("*.proto") if re.search(r"^service ", path.read_text(), re.M)}
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={SCHEMA}",
                f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
                f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
                f"--mypy_out={scratch}",
                f"--mypy_grpc_out={scratch}",
                *protos,
            ]
        )
        if code:
            raise SystemExit(f"protoc failed with exit code {code}")
        target.mkdir(parents=True, exist_ok=True)
        for stub in sorted(Path(scratch, "patchbay", "v1").iterdir()):
            if "_grpc" in stub.name and stub.name.split("_pb2")[0] not in services:
                continue
            (target / stub.name).write_text(rewrite_imports(stub.read_text()))
        (target / "__init__.py").write_text("")


def rewrite_imports(text: str) -> str:
    """Points the stubs' imports of each other at `patchbay_proto.v1`; leaves descriptors and service names alone."""
    return "\n".join(
        _IMPORT.sub("patchbay_proto.v1", line) if re.match(r"\s*(from|import)\s", line) else line
        for line in text.split("\n")
    )


def stale() -> list[str]:
    """The names of committed stubs that differ from what the schema gives."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        names = {path.name for path in fresh.iterdir()} | {path.name for path in PACKAGE.glob("*.py*")}
        return sorted(name for name in names if read(fresh / name) != read(PACKAGE / name))


def read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(PACKAGE)
        return
    names = stale()
    if names:
        raise SystemExit(f"stale stubs: {', '.join(names)}; run `make proto`")


if __name__ == "__main__":
    main()
