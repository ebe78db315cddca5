"""What callbacks write into a run's `outputs`; the end of a name says how."""

import csv
import json
from collections.abc import Callable, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.encoding import encode, mapped
from noether.plain import plain
from noether.storage import Sink, replacing


def write(folder: Path, name: str, payload: Any) -> Path:
    """Write `payload` as `name` into `folder`, over what is there; see `placed`.

    Raises OSError, TypeError for a payload that the format can't hold, ImportError naming the
    extra that it needs.
    """
    path = placed(folder, name)
    folder.mkdir(exist_ok=True)
    with replacing(path) as sink:
        FORMATS[path.suffix](payload, sink)
    return path


def placed(folder: Path, name: str) -> Path:
    """The file of an output; slashes become dots, and a name of no known kind ends in `.pt`.

    >>> placed(Path("outputs"), "images/val_E1.png").name, placed(Path("outputs"), "weights").name
    ('images.val_E1.png', 'weights.pt')
    """
    path = folder / name.replace("/", ".")
    return path if path.suffix in FORMATS else path.with_name(f"{path.name}.pt")


def _tensors(payload: Any, sink: Sink) -> None:
    torch.save(encode(payload, "an output"), sink)  # type: ignore[arg-type]  # write and flush


def _json(payload: Any, sink: Sink) -> None:
    text = json.dumps(plain(_listed(payload)), indent=1, ensure_ascii=False)
    sink.write(f"{text}\n".encode())


def _text(payload: Any, sink: Sink) -> None:
    if not isinstance(payload, str):
        raise TypeError(f"a .txt takes a string, not a {type(payload).__name__}")
    sink.write(payload.encode())


def _csv(payload: Any, sink: Sink) -> None:
    """A row for each place of the columns; what is no number or text in a cell is JSON."""
    columns = _listed(payload)
    if not isinstance(columns, Mapping) or len({len(c) for c in columns.values()}) > 1:
        raise TypeError("a .csv takes a mapping of columns of one length")
    file = StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_cell(cell) for cell in row] for row in zip(*columns.values(), strict=True))
    sink.write(file.getvalue().encode())


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(plain(value))


def _listed(payload: Any) -> Any:
    """The payload with lists in the place of tensors."""
    return mapped(encode(payload, "an output"), lambda path, tensor: tensor.tolist())


def _png(payload: Any, sink: Sink) -> None:
    if hasattr(payload, "savefig"):
        return _figure("png")(payload, sink)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(FIGURES) from error
    held = BytesIO()
    Image.fromarray(_pixels(payload)).save(held, format="png")
    sink.write(held.getvalue())
    return None


def _pixels(image: Any) -> Any:
    """An image of shape (channels, height, width) or (height, width) as PIL takes it."""
    if not isinstance(image, Tensor) or image.dim() not in (2, 3):
        raise TypeError("a .png takes a figure, or a tensor of shape (channels, height, width)")
    if image.is_floating_point():
        image = (image.nan_to_num().clamp(0, 1) * 255).round()
    array = image.detach().to("cpu", torch.uint8)
    if array.dim() == 3:
        array = array.permute(1, 2, 0)
        array = array[..., 0] if array.shape[-1] == 1 else array
    return array.contiguous().numpy()


def _figure(kind: str) -> Callable[[Any, Sink], None]:
    def save(payload: Any, sink: Sink) -> None:
        if not hasattr(payload, "savefig"):
            raise TypeError(f"a .{kind} takes a matplotlib figure, not a {type(payload).__name__}")
        held = BytesIO()
        payload.savefig(held, format=kind)
        sink.write(held.getvalue())

    return save


FIGURES = "images need Pillow: pip install 'noether-callbacks[figures]'"
FORMATS: Mapping[str, Callable[[Any, Sink], None]] = {
    ".pt": _tensors,
    ".json": _json,
    ".txt": _text,
    ".csv": _csv,
    ".png": _png,
    ".svg": _figure("svg"),
}
