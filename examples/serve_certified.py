"""Certified predictions with ONNX Runtime alone: the server below needs neither PyTorch nor ibpc.

`export` writes the certified margins of a network as one ONNX file. Whoever serves it feeds the box of all inputs that
an attacker may substitute, and gets a lower bound of every margin z_i − z_j over that box. Row i all positive off the
diagonal: every input of the box is classified as i, in any order of summation that the hardware may choose.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

EPS = 0.05


def serve(model: Path, images: np.ndarray) -> list[str]:
    """Return "class" or "abstains" for each image (N, 1, 8, 8), float32 in [0, 1]: what a server would answer."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    lower = np.nextafter(np.clip(images - EPS, 0, 1), np.float32(-1))
    upper = np.nextafter(np.clip(images + EPS, 0, 1), np.float32(2))
    (margins,) = session.run(["margins"], {"lower": lower, "upper": upper})
    certified = (margins + np.eye(margins.shape[1]) > 0).all(axis=2)
    return [str(row.argmax()) if row.any() else "abstains" for row in certified]


def train(model: Path) -> None:
    """Train a network on 8×8 digits for a few seconds and export its margins; done once, elsewhere."""
    import ibpc

    digits = ibpc.load_dataset("digits")
    network = ibpc.compile(Path(__file__).parents[1] / "specs" / "digits_small.json")
    recipe = ibpc.Recipe.default("ibp", EPS, "digits").with_overrides({"epochs": 15})
    ibpc.train(network, recipe, digits, model.parent / "run")
    ibpc.export(network, model, "margins")


with tempfile.TemporaryDirectory() as folder:
    exported = Path(folder) / "margins.onnx"
    train(exported)
    import ibpc

    test = ibpc.load_dataset("digits").test
    answers = serve(exported, test.floats().numpy())
    labels = [str(label) for label in test.labels.tolist()]
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
    wrong = sum(answer not in (label, "abstains") for answer, label in zip(answers, labels, strict=True))
    print(f"of {len(labels)} digits, whatever changes each pixel by up to {EPS}:")
    print(f"{right} certified right, {wrong} certified wrong, {answers.count('abstains')} answered by abstaining")
