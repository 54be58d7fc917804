"""Draws docs/data-flow.svg and docs/parameters.svg: `python docs/figures.py`; `--check` only compares.

docs/parameters.svg is drawn from what `param_shapes`, `pytorch_name` and `to_pytorch` of bart_oneliner.py return.
"""

import sys
from html import escape
from pathlib import Path

import jax

from bart_oneliner import Config, param_shapes, pytorch_name, to_pytorch

HERE = Path(__file__).resolve().parent
INK, QUIET, LINE = "#1f2328", "#59636e", "#8c959f"
BLUE, GREEN, SAND, PAPER = "#ddf4ff", "#dafbe1", "#fff8c5", "#ffffff"


class Drawing:
    """Collects boxes, texts and lines, and returns them as SVG."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title, self.parts = (width, height), title, []

    def box(self, x: float, y: float, w: float, h: float, fill: str, *lines: str, radius: int = 6) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" fill="{fill}" stroke="{LINE}"/>'
        )
        for i, line in enumerate(lines):
            middle = y + h / 2 + 4.5 + (i - (len(lines) - 1) / 2) * 16
            self.text(x + w / 2, middle, line, QUIET if i else INK, 12 if i else 13, "middle")

    def text(
        self, x: float, y: float, s: str, color: str = INK, size: int = 13, anchor: str = "start", mono: bool = False
    ) -> None:
        family = "ui-monospace, Menlo, Consolas, monospace" if mono else "system-ui, Helvetica, Arial, sans-serif"
        self.parts.append(
            f'<text x="{x}" y="{y}" font-family="{family}" font-size="{size}" fill="{color}" '
            f'text-anchor="{anchor}" xml:space="preserve">{escape(s)}</text>'
        )

    def arrow(self, *points: tuple[float, float], label: str = "", at: tuple[float, float] = (0, 0)) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.3"/>')
        (x0, y0), (x1, y1) = points[-2:]  # the arrowhead is a polygon, because some renderers ignore SVG markers
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        wings = f"{x1 - 7 * dx - 4 * dy},{y1 - 7 * dy - 4 * dx} {x1 - 7 * dx + 4 * dy},{y1 - 7 * dy + 4 * dx}"
        self.parts.append(f'<polygon points="{x1},{y1} {wings}" fill="{INK}"/>')
        if label:
            self.text(*at, label, QUIET, 12)

    def dashed(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-dasharray="4 3"/>')

    def svg(self) -> str:
        w, h = self.size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img">'
        ground = f'<rect width="{w}" height="{h}" fill="{PAPER}"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", ground, *self.parts, "</svg>", ""])


def data_flow() -> str:
    d = Drawing(880, 640, "BART's data flow, with shapes")
    d.text(150, 28, "encoder", INK, 16, "middle")
    d.text(560, 28, "decoder", INK, 16, "middle")

    def column(x: float, ids: str, length: str) -> None:
        d.box(x, 44, 220, 36, SAND, ids)
        d.arrow((x + 110, 80), (x + 110, 104), label=f"(B,{length})", at=(x + 118, 97))
        d.box(x, 104, 220, 52, BLUE, "embed", "shared[ids] + position, then norm")
        d.arrow((x + 110, 156), (x + 110, 208), label=f"(B,{length},D)", at=(x + 118, 172))

    def residual(x: float, top: float, what: str, how: str, length: str) -> None:
        """Draws a part of a layer, the residual connection around it, and the norm."""
        d.box(x, top, 220, 44, GREEN, what, how)
        d.arrow((x + 110, top - 12), (x - 14, top - 12), (x - 14, top + 64), (x, top + 64))
        d.arrow((x + 110, top + 44), (x + 110, top + 52))
        d.box(x, top + 52, 220, 24, PAPER, "norm(x + dropout(·))")

    d.box(16, 184, 268, 232, "#f6f8fa")
    d.box(426, 184, 268, 340, "#f6f8fa")
    column(40, "input_ids", "S")
    column(450, "decoder_input_ids", "T")
    d.text(276, 402, "× L", QUIET, 13, "end")
    d.text(686, 510, "× L", QUIET, 13, "end")
    residual(40, 208, "self-attention", "(B,H,S,S), padding masked", "S")
    d.arrow((150, 284), (150, 312))
    residual(40, 312, "feed-forward", "D → F, gelu, F → D", "S")
    residual(450, 208, "self-attention", "(B,H,T,T), the future masked", "T")
    d.arrow((560, 284), (560, 312))
    residual(450, 312, "cross-attention", "(B,H,T,S), padding masked", "T")
    d.arrow((560, 388), (560, 416))
    residual(450, 416, "feed-forward", "D → F, gelu, F → D", "T")
    d.arrow((150, 388), (150, 446), (356, 446), (356, 334), (450, 334))
    d.text(164, 438, "memory (B,S,D)", QUIET, 12)
    d.text(366, 326, "k, v", QUIET, 12)
    d.arrow((560, 492), (560, 548), label="(B,T,D)", at=(568, 540))
    d.box(450, 548, 220, 44, BLUE, "lm_head", "· sharedᵀ + final_logits_bias")
    d.arrow((560, 592), (560, 618), label="logits (B,T,V)", at=(568, 612))
    # Dashed lines connect the shared matrix with the three places where it is used.
    d.box(744, 290, 116, 76, SAND, "shared (V,D)", "one matrix,", "three places")
    d.dashed((802, 290), (802, 130), (672, 130))
    d.dashed((802, 366), (802, 570), (672, 570))
    d.dashed((802, 130), (802, 12), (340, 12), (340, 130), (262, 130))
    return d.svg()


def parameters() -> str:
    """Draws a line for each leaf of the parameter tree: PyTorch's name and shape, and ours."""
    # All sizes are different, so that each belongs to one letter.
    letters = {2: "L", 3: "H", 5: "K", 15: "D", 7: "F", 11: "V", 15 + 4: "P+2"}
    config = Config(
        vocab_size=11, d_model=15, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=3, encoder_ffn_dim=7, decoder_ffn_dim=7, max_position_embeddings=17,
    )  # fmt: skip
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes(config)):
        ours = jax.tree_util.keystr(path, simple=True, separator=".")
        prefix = "" if ours == "final_logits_bias" else "model."
        rows.append((prefix + pytorch_name(path).replace(".layers.0.", ".layers.{i}."), ours, leaf.shape))
    order = ("shared", "final", "encoder.embed", "encoder.layernorm", "encoder", "decoder.embed", "decoder.layernorm")
    rows.sort(key=lambda row: next((i for i, start in enumerate(order) if row[1].startswith(start)), len(order)))
    rows.sort(key=lambda row: (row[1].startswith("decoder"), row[1].startswith("encoder")))

    def theirs(leaf: str, shape: tuple[int, ...]) -> str:
        of_layer = shape[1:] if ".layers." in leaf else shape
        a = jax.eval_shape(lambda x: to_pytorch(leaf, x), jax.ShapeDtypeStruct(of_layer, "float32"))
        return "(" + ", ".join("1" if n == 1 else letters[n] for n in a.shape) + ")"

    d = Drawing(960, 76 + 19 * len(rows), "The parameter tree in PyTorch's names and in ours")
    d.text(24, 30, "PyTorch's state dict", INK, 15)
    d.text(510, 30, "ours", INK, 15)
    d.text(24, 50, "one tensor per layer {i}; Linear keeps (out, in)", QUIET, 12)
    d.text(510, 50, "layers stacked on L; heads are an axis; (in, out)", QUIET, 12)
    for i, (pytorch, ours, shape) in enumerate(rows):
        y = 76 + 19 * i
        if i % 2 == 0:
            d.parts.append(f'<rect x="12" y="{y - 14}" width="936" height="19" fill="#f6f8fa"/>')
        d.text(24, y, pytorch, size=12, mono=True)
        d.text(490, y, theirs(ours, shape), QUIET, 12, "end", mono=True)
        d.text(510, y, ours, size=12, mono=True)
        d.text(940, y, "(" + ", ".join(letters[n] for n in shape) + ")", QUIET, 12, "end", mono=True)
    return d.svg()


def main(check: bool) -> int:
    stale = 0
    for name, svg in (("data-flow.svg", data_flow()), ("parameters.svg", parameters())):
        file = HERE / name
        if not file.exists() or file.read_text(encoding="utf-8") != svg:
            stale += 1
            print(f"{name} is not what the code draws" + ("" if check else ": drawn"))
            if not check:
                file.write_text(svg, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
