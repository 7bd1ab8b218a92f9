"""Blind training: what a policy will see of a dataset, and a dataset without its cameras."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from imitact.core.errors import BadInput
from imitact.core.types import Dataset, Episode, Spec, overridable
from imitact.datasets.subset import DatasetView


def seen_by_policy(dataset: Dataset, no_cameras: bool) -> Dataset:
    """Return the dataset that a policy is trained on; a policy without eyes must be asked for.

    Raises:
        BadInput: there is what looks like cameras, but none can be read.
    """
    if no_cameras:
        return WithoutCameras(dataset) if dataset.spec.cameras else dataset
    unread = dataset.unread_cameras
    if unread and not dataset.spec.cameras:
        name = unread[0]
        why = dataset.left_out.get(name) or dataset.left_out.get(f"/{name}", "it is not read")
        more = f", and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise BadInput(
            f"the policy would see nothing: {name} is left out ({why}){more}. Give --no-cameras to "
            "train on joints alone"
        )
    return dataset


def cameras_line(spec: Spec) -> str:
    """Return in one line what a policy sees."""
    if not spec.cameras:
        more = "joints and the environment's state" if spec.environment_size else "joints alone"
        return f"no cameras: the policy is trained on {more}"
    return f"cameras: {', '.join(map(str, spec.cameras))}"


class WithoutCameras(DatasetView):
    """A dataset of which no camera is read; everything else is that of the dataset."""

    @overridable
    def spec(self) -> Spec:
        return replace(self.dataset.spec, cameras=())

    @overridable
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprint of the dataset."""
        return hashlib.sha256(f"{self.dataset.fingerprint} without cameras".encode()).hexdigest()

    def episode(self, index: int) -> Episode:
        return self.dataset.episode(index)
