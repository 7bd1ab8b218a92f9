"""ALOHA renderer: the OpenGL context and scene that camera frames are drawn with."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any, cast

import numpy as np

from imitact.core.errors import BadInput, missing_package
from imitact.core.types import Frame
from imitact.envs.shadow_map import ShadowMap

# PyOpenGL answers a missing libEGL with an AttributeError on None.
_OPENGL_ERRORS = (ImportError, AttributeError, RuntimeError)


def load_mujoco() -> Any:
    """Import MuJoCo, on Linux with EGL unless MUJOCO_GL selects another OpenGL.

    MuJoCo reads MUJOCO_GL once, at its first import. It has no EGL for macOS and Windows, and
    chooses for itself there.

    Raises:
        BadInput: MuJoCo is not installed, or OpenGL does not work.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise _no_opengl(error) from error
        raise missing_package("mujoco", "sim") from error
    except _OPENGL_ERRORS as error:
        raise _no_opengl(error) from error
    return mujoco


class SceneRenderer:
    """Renders the cameras of one model, with one OpenGL context for all frames.

    The context is dm_control's, not MuJoCo's own: dm_control keeps track of the current context, so
    next to it (gym-aloha in the same process) another kind would draw into the wrong one. Where
    OpenGL does not work, BadInput says what to install.
    """

    def __init__(self, mj: Any, model: Any, height: int, width: int) -> None:
        try:
            from dm_control import _render

            self._gl: Any = cast(Any, _render.Renderer)(width, height)
            with self._gl.make_current() as gl:
                # No frame shows the font; its scale is dm_control's.
                self._context = gl.call(mj.MjrContext, model, mj.mjtFontScale.mjFONTSCALE_100)
                gl.call(mj.mjr_setBuffer, mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        except _OPENGL_ERRORS as error:
            raise _no_opengl(error) from error
        self._mj = mj
        self._model = model
        self._scene = mj.MjvScene(model, maxgeom=1000)
        self._option = mj.MjvOption()
        self._perturb = mj.MjvPerturb()
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED
        self._rect = mj.MjrRect(0, 0, width, height)
        self._size = (height, width, 3)
        self._has_rendered = False
        self._shadows: ShadowMap | None = None
        # OpenGL objects must be freed before the context, at the latest when Python exits.
        weak_close = weakref.WeakMethod(self.close)

        def close_at_exit() -> None:
            close = weak_close()
            if close is not None:
                close()

        self._close_at_exit = close_at_exit
        atexit.register(close_at_exit)

    def render(self, data: Any, camera: int) -> Frame:
        """Render the camera with that id, in the state of an MjData."""
        mj = self._mj
        self._camera.fixedcamid = camera
        view = self._option, self._perturb, self._camera, mj.mjtCatBit.mjCAT_ALL
        mj.mjv_updateScene(self._model, data, *view, self._scene)
        frame = np.empty(self._size, np.uint8)
        with self._gl.make_current() as gl:
            if self._shadows is not None:
                gl.call(self._shadows.draw, self._scene, data)
            gl.call(mj.mjr_render, self._rect, self._scene, self._context)
            if not self._has_rendered:
                self._has_rendered = True
                self._shadows = gl.call(self._shadow_map, data)
            gl.call(mj.mjr_readPixels, frame, None, self._rect, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL's first row is the lowest

    def _shadow_map(self, data: Any) -> ShadowMap | None:
        """Return a shadow map if it is faster here and equals MuJoCo's."""
        if not ShadowMap.applies(self._mj, self._scene, self._context):
            return None
        shadows = ShadowMap(self._mj, self._model, self._scene, self._context)
        if shadows.take_over(self._scene, data):
            return shadows
        shadows.free()
        return None

    def close(self) -> None:
        """Free the OpenGL context and its objects."""
        if self._gl is None:
            return
        gl, self._gl = self._gl, None
        atexit.unregister(self._close_at_exit)
        with gl.make_current() as current:
            if self._shadows is not None:
                current.call(self._shadows.free)
            current.call(self._context.free)
        gl.free()

    def __del__(self) -> None:
        if hasattr(self, "_close_at_exit"):
            self.close()


def _no_opengl(cause: Exception) -> BadInput:
    backend = os.environ.get("MUJOCO_GL", "unset")
    return BadInput(
        f"OpenGL does not work with MUJOCO_GL {backend} ({type(cause).__name__}: {cause}). On "
        "Debian or Ubuntu: `apt-get install libegl1 libgl1-mesa-dri` and MUJOCO_GL=egl (the "
        "default on Linux), or `apt-get install libosmesa6` and MUJOCO_GL=osmesa"
    )
