"""Names files that hold no state dict, by their first bytes or their content, and says what to do with each."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_STATE_DICT = "torch.save(model.state_dict(), 'weights.pth')"
_AS_ONNX = "export the model as ONNX, and give that file with --onnx"
_UNPACK = "unpack it, and give the file of weights in it"
_AGAIN = "fetch it again"
_LONGEST_START = 512
INDEX = ".index.json"
"""End of the name of the index of weights in parts."""

# Offset, bytes, kind of file and advice. https://en.wikipedia.org/wiki/List_of_file_signatures and the formats' docs.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GGUF", "a GGUF file of llama.cpp, whose tensors are renamed and packed", "give the original weights"),
    (0, b"ggml", "a file of ggml, whose tensors are renamed and packed", "give the original weights"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", f"{_AS_ONNX} (tf2onnx)"),
    (
        0,
        b"ftrt",
        "an engine of TensorRT, which fits one GPU only",
        "give the weights or the ONNX file it was built from",
    ),
    (
        0,
        b"ptrt",
        "an engine of TensorRT, which fits one GPU only",
        "give the weights or the ONNX file it was built from",
    ),
    (4, b"TFL3", "a model of TensorFlow Lite", f"{_AS_ONNX} (tf2onnx)"),
    (4, b"ET12", "a program of ExecuTorch", "give the weights it was made from"),
    (0, b"\x93NUMPY", "an array of NumPy", f"give a state dict: {_STATE_DICT}"),
    (0, b"\x12\x01\0\0\0\0\0\0", "a file of MXNet", _AS_ONNX),
    (0, b"MATLAB 5.0", "a file of MATLAB", f"give a state dict: {_STATE_DICT}"),
    (0, b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (0, b"BZh", "compressed (bzip2)", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed (xz)", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive (7z)", _UNPACK),
    (0, b"Rar!", "an archive (rar)", _UNPACK),
    (257, b"ustar", "an archive (tar)", _UNPACK),
    (0, b"%PDF", "a PDF document", "give a file of weights"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "give a file of weights"),
    (0, b"\x89PNG", "a picture (PNG)", "give a file of weights"),
    (0, b"\x7fELF", "a program", "give a file of weights"),
)
_TEXTS: tuple[tuple[str, str, str], ...] = (
    (r"\s*(<!doctype html|<html|<head)", "a web page, perhaps of an error or a login, in place of the weights", _AGAIN),
    (r"\s*<\?xml[^>]*>\s*<net|\s*<net ", "a model of OpenVINO", "give the weights or the ONNX file it was made from"),
    (r"\s*<", "a text in XML, perhaps of an error, in place of the weights", _AGAIN),
    (r"\s*model_checkpoint_path", "the index of checkpoints of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    (r"\s*[\[{]", "a text in JSON", "give the file of weights itself"),
    (r"[\t\n\r -~]+\Z", "a text, perhaps of an error, in place of the weights", _AGAIN),
)
_SUFFIXES: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX model", "give it with --onnx"),
    ".mlmodel": ("a model of Core ML", "give the weights it was made from"),
    ".engine": ("an engine of TensorRT, which fits one GPU only", "give the weights it was built from"),
    ".plan": ("an engine of TensorRT, which fits one GPU only", "give the weights it was built from"),
    ".trt": ("an engine of TensorRT, which fits one GPU only", "give the weights it was built from"),
    ".pb": ("a graph of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    ".index": ("the index of a checkpoint of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    ".caffemodel": ("a model of Caffe", _AS_ONNX),
    ".weights": ("a file of Darknet or Keras", _AS_ONNX),
    ".msgpack": ("a file of Flax", "save the weights as safetensors with PyTorch's names"),
    ".pdparams": ("a file of PaddlePaddle", f"{_AS_ONNX} (paddle2onnx)"),
    ".h5": ("no complete HDF5 file", f"{_AGAIN}, then {_AS_ONNX} (tf2onnx)"),
    ".bin": ("no file of torch.save, perhaps the weights of OpenVINO", "give the weights it was made from"),
}
# A file in an archive, kind of archive and advice; the first that is there counts.
_MEMBERS: tuple[tuple[str, str, str], ...] = (
    (
        r"(^|/)(serialized_)?exported_program\.(json|pt2)$|(^|/)models/\w+\.json$|(^|/)archive_format$",
        "a program of torch.export",
        "torch.save(torch.export.load(FILE).state_dict, 'weights.pth') gives its state dict",
    ),
    (
        r"(^|/)constants\.pkl$|(^|/)bytecode\.pkl$",
        "an archive of TorchScript, which is code",
        "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') gives its state dict",
    ),
    (r"(^|/)model\.weights\.h5$", "a model of Keras", f"{_AS_ONNX} (tf2onnx)"),
    (r"\.npy$", "an archive of NumPy arrays", f"give a state dict: {_STATE_DICT}"),
    (r"\.mlmodel$", "a model of Core ML", "give the weights it was made from"),
)
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    ("saved_model.pb", "a SavedModel of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    ("*.ckpt.index", "checkpoints of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    ("checkpoint", "checkpoints of TensorFlow", f"{_AS_ONNX} (tf2onnx)"),
    (
        ".metadata",
        "a checkpoint of torch.distributed in parts",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth joins them",
    ),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed in parts", "its zero_to_fp32.py joins them"),
    ("Manifest.json", "a package of Core ML", "give the weights it was made from"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax", "save the weights as safetensors with PyTorch's names"),
    ("manifest.json", "a version of a model", "resnet-serve serves its repository as it is"),
)
_ONNX = re.compile(rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
"""Field 1 of a `ModelProto`, its IR version, and the tag of another field."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


def stranger_folder(path: Path) -> str | None:
    """Name the kind of a folder of another program, and what to do with it; None for an unknown one."""
    return next((f"is {kind}: {advice}" for name, kind, advice in _FOLDERS if any(path.glob(name))), None)


def stranger_file(path: Path, *, part: bool = False) -> str | None:
    """Name the kind of a file of another program, and what to do with it; None if it may hold a state dict.

    Args:
        path: the file.
        part: whether its index lists it, so that it need not hold all weights.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    if not start:
        return f"is empty: {_AGAIN}"
    if not part and (found := _SHARD.search(path.name)) and int(found[2]) > 1:
        return (
            f"is part {int(found[1])} of {int(found[2])} of the weights: give their folder, or their index (*{INDEX})"
        )
    if path.name.endswith(INDEX):
        return None
    for offset, magic, kind, advice in _SIGNATURES:
        if start[offset:].startswith(magic):
            return f"is {kind}: {advice}"
    if start.startswith(b"PK"):
        return _stranger_archive(path)
    if start.startswith(b"\x80") or start[8:9] == b"{":  # a pickle; the header of safetensors
        return None
    if _ONNX.match(start):
        return "is an ONNX model: give it with --onnx"
    return _stranger_text(start) or _by_suffix(path)


def _by_suffix(path: Path) -> str:
    known = _SUFFIXES.get(path.suffix.lower())
    kind, advice = known or ("neither safetensors nor a file of torch.save", f"give a state dict: {_STATE_DICT}")
    return f"is {kind}: {advice}"


def _stranger_text(start: bytes) -> str | None:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return next((f"is {kind}: {advice}" for form, kind, advice in _TEXTS if re.match(form, text, re.I)), None)


def _stranger_archive(path: Path) -> str | None:
    """Name the kind of a zip archive; None for one of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return f"is not complete, its end is missing or damaged: {_AGAIN}"
    names = [member.filename for member in members]
    for form, kind, advice in _MEMBERS:
        if any(re.search(form, name) for name in names):
            return f"is {kind}: {advice}"
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return f"is an archive ({', '.join(names[:3]) or 'empty'}): {_UNPACK}"
    # torch.save stores without compression; an archive that unpacks to more than its size could fill the memory.
    if sum(member.file_size for member in members) > path.stat().st_size:
        return f"unpacks to more bytes than it has, unlike files of torch.save: save it again: {_STATE_DICT}"
    return None
