"""The network as MLflow serves it: pictures in, classes out.

MLflow keeps this file with the model and runs it where evonas need not be: it imports nothing of
it.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image, ImageOps

_ABOUT = "evonas.json"  # what evonas says of the network, inside its file


class Classifier(PythonModel):
    """Says of which class pictures are."""

    def load_context(self, context: Any) -> None:
        """Read the network."""
        inside = {_ABOUT: ""}
        program = torch.export.load(context.artifacts["network"], extra_files=inside)
        self._network, self._about = program.module(), json.loads(inside[_ABOUT])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classes of pictures.

        Args:
            context: Unused.
            model_input: Column ``image``: files of pictures (PNG, JPEG, …), as bytes.
            params: Unused.

        Returns:
            Columns ``class``, ``probability`` and ``probabilities``, of all classes in their order.
        """
        images = np.stack([self._image(data) for data in model_input["image"]])
        with torch.no_grad():
            probabilities = self._network(torch.from_numpy(images)).softmax(1)
        best = probabilities.max(1)
        return pd.DataFrame(
            {
                "class": [self._about["classes"][i] for i in best.indices.tolist()],
                "probability": best.values.tolist(),
                "probabilities": probabilities.tolist(),
            }
        )

    def _image(self, data: bytes) -> np.ndarray[Any, Any]:
        form = self._about["preprocessing"]
        width, height = form["width"], form["height"]
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(form["mode"])
        pixels = np.array(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))
        return pixels.reshape(height, width, -1).transpose(2, 0, 1)


set_model(Classifier())
