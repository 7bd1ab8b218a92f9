"""Dataset formats: the layouts of ALOHA, robomimic and diffusion-policy."""
