def higher_is_better(config): return {}
def scorer(config): return None
