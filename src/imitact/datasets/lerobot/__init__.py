"""The LeRobotDataset layouts v3.0 and v2.1."""
