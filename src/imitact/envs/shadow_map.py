"""The shadow map of a scene, drawn only where it changed.

MuJoCo draws a map of 4096 by 4096 texels anew for every frame. In software (Mesa's llvmpipe) that
is 40 % of a frame: more than half of it clears 16.8 million texels, of which the casters reach 6 %.
Here the same triangles go into the same texture by the same OpenGL commands, but the part that
nobody touched stays, what never moves is drawn once, and all cameras of a tick share one map.
Every texel is MuJoCo's to the bit: `verify` compares them all, and who draws must ask it first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Left, bottom, width and height, in texels."""

# mjr_render (src/render/classic/render_gl3.c of MuJoCo 3.8): how far a caster is moved away from
# the light, and the border of texels that stays empty.
_OFFSET_FACTOR, _OFFSET_UNITS = -1.5, -4.0
_BORDER = 1
# Texels about a caster's own, for what rounding may add.
_MARGIN = 3

# Its display lists: two a mesh (itself, its hull), and this one of the built-in shapes.
_BOX_LIST = 6


class ShadowMap:
    """The texture that mjr_render reads the shadows of one light from, kept up to date by `draw`.

    All of it needs the OpenGL context to be current.
    """

    def __init__(self, mj: Any, model: Any, scene: Any, context: Any) -> None:
        from OpenGL import GL

        self._gl: Any = GL
        self._mj, self._model, self._context = mj, model, context
        self._size: int = context.shadowSize
        self._light = next(at for at in range(scene.nlight) if scene.lights[at].castshadow)
        still = model.body_weldid[model.geom_bodyid] == 0
        self._still, self._moving = np.flatnonzero(still), np.flatnonzero(~still)
        self._drawn: bytes | None = None
        self._dirty: Box = (0, 0, self._size, self._size)
        self._frame = GL.glGenFramebuffers(1)
        self._attach(self._frame, context.shadowTex)
        # What of the map never changes: all else is put back from here.
        self._background = GL.glGenTextures(1)
        GL.glActiveTexture(GL.GL_TEXTURE1)
        GL.glBindTexture(GL.GL_TEXTURE_2D, self._background)
        GL.glTexStorage2D(GL.GL_TEXTURE_2D, 1, GL.GL_DEPTH24_STENCIL8, self._size, self._size)
        GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        # mjr_render still clears what it takes for the map: one texel.
        self._nowhere = GL.glGenTextures(1)
        GL.glBindTexture(GL.GL_TEXTURE_2D, self._nowhere)
        GL.glTexStorage2D(GL.GL_TEXTURE_2D, 1, GL.GL_DEPTH24_STENCIL8, 1, 1)
        GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        GL.glActiveTexture(GL.GL_TEXTURE0)

    @staticmethod
    def fits(mj: Any, scene: Any, context: Any) -> bool:
        """Whether it pays here (a software renderer), and the scene has only what is drawn here:
        one directional light with shadows, boxes and meshes.
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

    def verify(self, scene: Any, data: Any) -> bool:
        """Whether the map that mjr_render has just drawn of this scene is the one drawn here.

        If not (another MuJoCo or Mesa), mjr_render goes on drawing its own.
        """
        theirs = self._read()
        self.draw(scene, data)
        same = np.array_equal(theirs, self._read())
        if same:
            self._attach(self._context.shadowFBO, self._nowhere)
        return same

    def draw(self, scene: Any, data: Any) -> None:
        """Bring the map up to date with data, and keep mjr_render from casting shadows itself."""
        decor = int(self._mj.mjtCatBit.mjCAT_DECOR)  # the one kind of geom that casts no shadow
        now = data.geom_xpos.tobytes() + data.geom_xmat.tobytes()
        if now != self._drawn:
            casters = {geom.objid: geom for geom in scene.geoms[: scene.ngeom]}
            view, offset = self._look(scene.lights[self._light])
            self._begin(scene.camera[0], view, offset)
            if self._drawn is None:
                self._gl.glClear(self._gl.GL_DEPTH_BUFFER_BIT)
                self._cast(casters, self._still)
                self._copy(self._context.shadowTex, self._background, self._dirty)
            else:
                self._copy(self._background, self._context.shadowTex, self._dirty)
            self._cast(casters, self._moving)
            self._end()
            self._dirty = self._reach(data, view, offset)
            self._drawn = now
        for geom in scene.geoms[: scene.ngeom]:
            geom.category = decor

    def free(self) -> None:
        """Delete what it made; the context's own objects go with the context."""
        self._gl.glDeleteTextures([self._background, self._nowhere])
        self._gl.glDeleteFramebuffers(1, [self._frame])

    def _look(self, light: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The light's axes (3, 3), right, up and back, and where its origin is along them (3,).

        In single precision and in MuJoCo's order of operations (mjr_lookAt, mjr_orthoVec).
        """
        forward, eye = _unit(np.array(light.dir, np.float32)), np.array(light.pos, np.float32)
        aside = _unit(_cross(forward, np.array([-1, 0, 0], np.float32)))
        right = _unit(_cross(forward, aside))
        up = _unit(_cross(right, forward))
        axes = np.stack([right, up, -forward])
        return axes, np.array([-_dot(right, eye), -_dot(up, eye), _dot(forward, eye)])

    def _begin(self, camera: Any, axes: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
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
        for geom in (casters[at] for at in ids.tolist() if at in casters):
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

    def _end(self) -> None:
        """All else that was set mjr_render sets itself when it begins."""
        gl = self._gl
        gl.glDisable(gl.GL_POLYGON_OFFSET_FILL)
        gl.glColorMask(True, True, True, True)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._context.offFBO)

    def _reach(self, data: Any, axes: NDArray[np.float32], offset: NDArray[np.float32]) -> Box:
        """The texels that what moves can have touched."""
        seen = _corners(self._model, data, self._moving).reshape(-1, 3) @ axes[:2].T + offset[:2]
        texels = _BORDER + (seen / self._context.shadowClip + 1) / 2 * (self._size - 2 * _BORDER)
        low = np.clip(np.floor(texels.min(axis=0)) - _MARGIN, 0, self._size).astype(int)
        high = np.clip(np.ceil(texels.max(axis=0)) + _MARGIN, 0, self._size).astype(int)
        width, height = (high - low).tolist()
        return (int(low[0]), int(low[1]), width, height)

    def _copy(self, source: int, target: int, box: Box) -> None:
        left, bottom, width, height = box
        if not width or not height:
            return
        flat = self._gl.GL_TEXTURE_2D
        at = (flat, 0, left, bottom, 0)
        self._gl.glCopyImageSubData(source, *at, target, *at, width, height, 1)

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
        """(H, W) every depth of the map; 24 bits fit a float32."""
        gl = self._gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._frame)
        depths = np.empty((self._size, self._size), np.float32)
        gl.glReadPixels(0, 0, self._size, self._size, gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, depths)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._context.offFBO)
        return depths


def _corners(model: Any, data: Any, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """(N, 8, 3) the corners, in m in the world, of the boxes about these geoms."""
    boxes = model.geom_aabb[ids]
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    local = boxes[:, None, :3] + signs * boxes[:, None, 3:]
    turned = local @ data.geom_xmat[ids].reshape(-1, 3, 3).transpose(0, 2, 1)
    return turned + data.geom_xpos[ids][:, None]


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    x = a[1] * b[2] - a[2] * b[1]
    y = a[2] * b[0] - a[0] * b[2]
    z = a[0] * b[1] - a[1] * b[0]
    return np.array([x, y, z], np.float32)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.sqrt(_dot(vector, vector))
