"""Shadow map: a replacement of MuJoCo's that is redrawn only where it changes.

MuJoCo redraws a map of 4096 by 4096 texels for every frame. In software (Mesa's llvmpipe) that is
40 % of the time of a frame: more than half of it clears 16.8 million texels, of which the casters
cover 6 %. Here the same triangles are drawn into the same texture by the same OpenGL commands, but
texels without a moving caster are kept, static geoms are drawn once, and all cameras of a tick
share one map. Every texel equals MuJoCo's: `take_over` compares them all before the map is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Left, bottom, width and height, in texels."""

# mjr_render (src/render/classic/render_gl3.c of MuJoCo 3.8): the offset of a caster away from the
# light, and the border of texels that stays empty.
_OFFSET_FACTOR, _OFFSET_UNITS = -1.5, -4.0
_BORDER = 1
# Texels around those of a caster that rounding may reach.
_MARGIN = 3

# MuJoCo's display lists: two for each mesh (itself and its hull), this one of the built-in boxes.
_BOX_LIST = 6


class ShadowMap:
    """Draws the texture from which mjr_render reads the shadows of the scene's light.

    All methods need the OpenGL context to be current. The scene is an MjvScene that has been
    updated; the shadow texture of the MjrContext is drawn.
    """

    def __init__(self, mj: Any, model: Any, scene: Any, context: Any) -> None:
        from OpenGL import GL

        self._gl: Any = GL
        self._mj, self._model, self._context = mj, model, context
        self._size: int = context.shadowSize
        self._light = next(i for i in range(scene.nlight) if scene.lights[i].castshadow)
        static = model.body_weldid[model.geom_bodyid] == 0
        self._static, self._moving = np.flatnonzero(static), np.flatnonzero(~static)
        self._drawn: bytes | None = None
        self._dirty: Box = (0, 0, self._size, self._size)
        self._frame = GL.glGenFramebuffers(1)
        self._attach(self._frame, context.shadowTex)
        # The map of the static geoms, from which changed texels are restored.
        self._background = GL.glGenTextures(1)
        # mjr_render still clears its shadow framebuffer: of one texel instead of the map.
        self._dummy = GL.glGenTextures(1)
        GL.glActiveTexture(GL.GL_TEXTURE1)
        for texture, side in ((self._background, self._size), (self._dummy, 1)):
            GL.glBindTexture(GL.GL_TEXTURE_2D, texture)
            GL.glTexStorage2D(GL.GL_TEXTURE_2D, 1, GL.GL_DEPTH24_STENCIL8, side, side)
            GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        GL.glActiveTexture(GL.GL_TEXTURE0)

    @staticmethod
    def applies(mj: Any, scene: Any, context: Any) -> bool:
        """Return whether this class is faster here and can draw everything in the scene.

        It is faster with a software renderer, and draws one directional light, boxes and meshes.
        """
        from OpenGL import GL

        extensions = (GL.glGetString(GL.GL_EXTENSIONS) or b"").split()
        lights = [light for light in scene.lights[: scene.nlight] if light.castshadow]
        shapes = {int(geom.type) for geom in scene.geoms[: scene.ngeom]}
        return (
            b"llvmpipe" in (GL.glGetString(GL.GL_RENDERER) or b"")
            and {b"GL_ARB_clip_control", b"GL_ARB_copy_image"} <= set(extensions)
            and bool(context.shadowFBO)
            and len(lights) == 1
            and lights[0].type == mj.mjtLightType.mjLIGHT_DIRECTIONAL
            and shapes <= {int(mj.mjtGeom.mjGEOM_MESH), int(mj.mjtGeom.mjGEOM_BOX)}
        )

    def take_over(self, scene: Any, data: Any) -> bool:
        """Replace mjr_render's map if the one it has just drawn of this scene equals ours.

        If not (another MuJoCo or Mesa), return False: mjr_render keeps drawing its own.
        """
        theirs = self._read()
        self.draw(scene, data)
        same = np.array_equal(theirs, self._read())
        if same:
            self._attach(self._context.shadowFBO, self._dummy)
        return same

    def draw(self, scene: Any, data: Any) -> None:
        """Update the map to the state of an MjData, and stop mjr_render from casting shadows."""
        decor = int(self._mj.mjtCatBit.mjCAT_DECOR)  # the category of geoms that cast no shadow
        now = data.geom_xpos.tobytes() + data.geom_xmat.tobytes()
        if now != self._drawn:
            casters = {geom.objid: geom for geom in scene.geoms[: scene.ngeom]}
            view, offset = self._light_pose(scene.lights[self._light])
            self._start_drawing(scene.camera[0], view, offset)
            if self._drawn is None:
                self._gl.glClear(self._gl.GL_DEPTH_BUFFER_BIT)
                self._cast(casters, self._static)
                self._copy(self._context.shadowTex, self._background, self._dirty)
            else:
                self._copy(self._background, self._context.shadowTex, self._dirty)
            self._cast(casters, self._moving)
            self._end_drawing()
            self._dirty = self._moving_texels(data, view, offset)
            self._drawn = now
        for geom in scene.geoms[: scene.ngeom]:
            geom.category = decor

    def free(self) -> None:
        """Delete the OpenGL objects made here; those of the context are freed with it."""
        self._gl.glDeleteTextures([self._background, self._dummy])
        self._gl.glDeleteFramebuffers(1, [self._frame])

    def _light_pose(self, light: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the light's axes right, up and back (3, 3), and its origin along them (3,).

        In single precision and in MuJoCo's order of operations (mjr_lookAt, mjr_orthoVec).
        """
        forward, eye = _unit(np.array(light.dir, np.float32)), np.array(light.pos, np.float32)
        aside = _unit(np.cross(forward, np.array([-1, 0, 0], np.float32)))
        right = _unit(np.cross(forward, aside))
        up = _unit(np.cross(right, forward))
        axes = np.stack([right, up, -forward])
        return axes, np.array([-_dot(right, eye), -_dot(up, eye), _dot(forward, eye)])

    def _start_drawing(
        self, camera: Any, axes: NDArray[np.float32], offset: NDArray[np.float32]
    ) -> None:
        gl, clip = self._gl, self._context.shadowClip
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._frame)
        side = self._size - 2 * _BORDER
        gl.glViewport(_BORDER, _BORDER, side, side)
        gl.glClipControl(gl.GL_LOWER_LEFT, gl.GL_ZERO_TO_ONE)
        gl.glMatrixMode(gl.GL_PROJECTION)
        gl.glLoadIdentity()
        gl.glTranslatef(0.0, 0.0, 0.5)
        gl.glScalef(1.0, 1.0, -0.5)
        gl.glOrtho(-clip, clip, -clip, clip, camera.frustum_near, camera.frustum_far)
        gl.glMatrixMode(gl.GL_MODELVIEW)
        matrix = np.eye(4, dtype=np.float32)
        matrix[:3, :3], matrix[3, :3] = axes.T, offset
        gl.glLoadMatrixf(matrix)
        gl.glDisable(gl.GL_LIGHTING)
        gl.glDisable(gl.GL_CULL_FACE)  # all faces cast shadows
        gl.glShadeModel(gl.GL_FLAT)
        gl.glColorMask(False, False, False, False)
        gl.glEnable(gl.GL_DEPTH_TEST)
        gl.glDepthFunc(gl.GL_GEQUAL)
        gl.glDepthMask(True)
        gl.glDepthRange(0.0, 1.0)
        gl.glClearDepth(0.0)
        gl.glPolygonMode(gl.GL_FRONT_AND_BACK, gl.GL_FILL)
        gl.glEnable(gl.GL_POLYGON_OFFSET_FILL)
        gl.glPolygonOffset(_OFFSET_FACTOR, _OFFSET_UNITS)

    def _cast(self, casters: dict[int, Any], ids: NDArray[np.intp]) -> None:
        gl, context, box = self._gl, self._context, int(self._mj.mjtGeom.mjGEOM_BOX)
        matrix = np.eye(4, dtype=np.float32)
        for geom in (casters[i] for i in ids.tolist() if i in casters):
            gl.glPushMatrix()
            gl.glTranslatef(*geom.pos.tolist())
            matrix[:3, :3] = geom.mat.T
            gl.glMultMatrixf(matrix)
            if geom.type == box:
                gl.glScalef(*geom.size.tolist())
                gl.glCallList(context.baseBuiltin + _BOX_LIST)
            else:
                gl.glCallList(context.baseMesh + geom.dataid)
            gl.glPopMatrix()

    def _end_drawing(self) -> None:
        """Undo what mjr_render does not set itself at its start."""
        gl = self._gl
        gl.glDisable(gl.GL_POLYGON_OFFSET_FILL)
        gl.glColorMask(True, True, True, True)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._context.offFBO)

    def _moving_texels(
        self, data: Any, axes: NDArray[np.float32], offset: NDArray[np.float32]
    ) -> Box:
        """Return the texels that moving geoms can have covered."""
        projected = (
            _corners(self._model, data, self._moving).reshape(-1, 3) @ axes[:2].T + offset[:2]
        )
        texels = _BORDER + (projected / self._context.shadowClip + 1) / 2 * (
            self._size - 2 * _BORDER
        )
        low = np.clip(np.floor(texels.min(axis=0)) - _MARGIN, 0, self._size).astype(int)
        high = np.clip(np.ceil(texels.max(axis=0)) + _MARGIN, 0, self._size).astype(int)
        width, height = (high - low).tolist()
        return (int(low[0]), int(low[1]), width, height)

    def _copy(self, source: int, target: int, box: Box) -> None:
        left, bottom, width, height = box
        if not width or not height:
            return
        place = (self._gl.GL_TEXTURE_2D, 0, left, bottom, 0)
        self._gl.glCopyImageSubData(source, *place, target, *place, width, height, 1)

    def _attach(self, frame: int, texture: int) -> None:
        gl = self._gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, frame)
        gl.glFramebufferTexture2D(
            gl.GL_FRAMEBUFFER, gl.GL_DEPTH_ATTACHMENT, gl.GL_TEXTURE_2D, texture, 0
        )
        gl.glDrawBuffer(gl.GL_NONE)
        gl.glReadBuffer(gl.GL_NONE)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._context.offFBO)

    def _read(self) -> NDArray[np.float32]:
        """Return all depths of the map, (H, W); 24 bits fit a float32."""
        gl = self._gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._frame)
        depths = np.empty((self._size, self._size), np.float32)
        gl.glReadPixels(0, 0, self._size, self._size, gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, depths)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._context.offFBO)
        return depths


def _corners(model: Any, data: Any, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the corners of the bounding boxes of geoms, (N, 8, 3), m, world frame."""
    boxes = model.geom_aabb[ids]
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    local = boxes[:, None, :3] + signs * boxes[:, None, 3:]
    rotated = local @ data.geom_xmat[ids].reshape(-1, 3, 3).transpose(0, 2, 1)
    return rotated + data.geom_xpos[ids][:, None]


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.sqrt(_dot(vector, vector))
