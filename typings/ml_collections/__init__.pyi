# ml_collections has no types of its own: what pyright would infer for a field
# of a config, the union of all types that one can have, has no attributes.
from ml_collections.config_dict import ConfigDict as ConfigDict
