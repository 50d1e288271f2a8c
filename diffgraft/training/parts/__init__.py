"""The parts of a model as training knows them. A new one is a value of Part that diffgraft.training.train.PARTS names."""
