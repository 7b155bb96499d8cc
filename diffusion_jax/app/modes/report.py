def after_training(config, workdir): pass
