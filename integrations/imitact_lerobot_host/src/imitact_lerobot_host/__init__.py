"""LeRobot host: serves one LeRobot robot or teleoperator to imitact, from LeRobot's environment.

`python -m imitact_lerobot_host --socket FD` is started by imitact (`imitact.robots.lerobot`). It
needs LeRobot and NumPy, not imitact. LeRobot's drivers are used as they are.
"""
