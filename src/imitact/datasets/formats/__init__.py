"""The layouts of ALOHA, robomimic and diffusion-policy."""
