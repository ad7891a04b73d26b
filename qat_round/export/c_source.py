"""A `.tflite` as C source and header, for firmware."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from typing import Any

import numpy as np

from qat_round.files.atomic_write import check_writable, write_files
from qat_round.files.interpreter import Runner
from qat_round.files.tflite_file import TFLiteFile, read_bytes

_ALIGNMENT = 16  # bytes; what TFLite-Micro and the Ethos-U driver ask of a model
_PER_LINE = 12
_KEYWORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while
"""


def export_c(
    tflite: bytes | str | os.PathLike[str],
    path: str | os.PathLike[str],
    name: str | None = None,
    alignment: int = _ALIGNMENT,
) -> tuple[str, str]:
    """Writes `<path>.c` and `<path>.h`: the file's bytes, its size and fingerprint, its ends.

    The header declares `const unsigned char <name>[]`, aligned, and `<NAME>_SIZE`,
    `<NAME>_SHA256`; for each input and output `_SCALE`, `_ZERO_POINT` and `_ELEMENTS`, so that
    firmware quantizes by `round(x / SCALE) + ZERO_POINT`.

    Args:
        tflite: the file's bytes, or its path.
        path: of the source; the endings are added.
        name: of the array; None: the path's last part as a C identifier.
        alignment: of the array, bytes, a power of two.

    Returns:
        Source and header, as text.

    Raises:
        ValueError: for a name that is no C identifier, or another alignment.
        OSError: if they cannot be written.

    Example:
        >>> identifier("my model-2")
        'my_model_2'
    """
    stem = str(path).removesuffix(".c")
    check_writable(stem + ".c")
    texts = c_texts(read_bytes(tflite), pathlib.Path(stem).name, name, alignment)
    write_files({f"{stem}.{end}": text.encode() for end, text in zip("ch", texts, strict=True)})
    return texts


def c_texts(
    tflite: bytes, stem: str, name: str | None = None, alignment: int = _ALIGNMENT
) -> tuple[str, str]:
    """Source and header as `export_c` writes them into `<stem>.c` and `<stem>.h`."""
    name = identifier(stem) if name is None else _checked(name)
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"export_c: alignment={alignment} has to be a power of two.")
    return _source(tflite, name, stem, alignment), _header(TFLiteFile(tflite), name)


def identifier(text: str) -> str:
    """A C identifier that is near to a text."""
    found = re.sub(r"\W", "_", text, flags=re.ASCII) or "model"
    return f"_{found}" if found[0].isdigit() or found in _KEYWORDS.split() else found


def _checked(name: str) -> str:
    if name != identifier(name):
        raise ValueError(
            f"export_c: name={name!r} is no C identifier; {identifier(name)!r} would be one."
        )
    return name


def _source(content: bytes, name: str, stem: str, alignment: int) -> str:
    rows = (content[i : i + _PER_LINE] for i in range(0, len(content), _PER_LINE))
    lines = ("  " + ", ".join(f"0x{byte:02x}" for byte in row) + "," for row in rows)
    return (
        f"/* Written by qat_round. SHA-256 {hashlib.sha256(content).hexdigest()} */\n"
        f'#include "{stem}.h"\n\n'
        f"#if defined(__GNUC__) || defined(__clang__)\n"
        f"#define QAT_ROUND_ALIGNED __attribute__((aligned({alignment})))\n"
        f"#elif defined(_MSC_VER)\n"
        f"#define QAT_ROUND_ALIGNED __declspec(align({alignment}))\n"
        f"#elif defined(__cplusplus)\n"
        f"#define QAT_ROUND_ALIGNED alignas({alignment})\n"
        f"#else\n"
        f"#define QAT_ROUND_ALIGNED _Alignas({alignment})\n"
        f"#endif\n\n"
        f"QAT_ROUND_ALIGNED const unsigned char {name}[{len(content)}] = {{\n"
        + "\n".join(lines)
        + "\n};\n"
    )


def _header(file: TFLiteFile, name: str) -> str:
    upper, size = name.upper(), len(file.content)
    lines = [
        f"/* Written by qat_round: a TensorFlow Lite model of {size} bytes. */",
        f"#ifndef {upper}_H_",
        f"#define {upper}_H_",
        "",
        f"#define {upper}_SIZE {size}u",
        f'#define {upper}_SHA256 "{hashlib.sha256(file.content).hexdigest()}"',
        *_ends(file, upper),
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        f"extern const unsigned char {name}[{size}];",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        f"#endif /* {upper}_H_ */",
    ]
    return "\n".join(lines) + "\n"


def _ends(file: TFLiteFile, upper: str) -> list[str]:
    """Scale, zero point and size of every input and output."""
    runner = Runner(file)
    lines = []
    for word, ends in (("INPUT", runner.inputs), ("OUTPUT", runner.outputs)):
        for number, (name, details) in enumerate(ends.items()):
            prefix = f"{upper}_{word}" + (f"_{number}" if len(ends) > 1 else "")
            lines += [f"/* {word.lower()} {_comment(name)}: {_kind(details)} */"]
            lines += [f"#define {prefix}_ELEMENTS {int(np.prod(details['shape'][1:]))}u"]
            scale, zero_point = details["quantization"]
            if scale:
                lines += [f"#define {prefix}_SCALE {_float(scale)}"]
                lines += [f"#define {prefix}_ZERO_POINT ({int(zero_point)})"]
    return lines


def _kind(details: Any) -> str:
    shape = " x ".join("?" if n < 0 else str(n) for n in details["shape_signature"])
    return f"{np.dtype(details['dtype']).name}, {shape}"


def _comment(name: str) -> str:
    return name.replace("*/", "* /").replace("\n", " ")


def _float(scale: float) -> str:
    text = np.format_float_scientific(np.float32(scale), unique=True, trim="0")
    return f"{text}f"
