"""The Hive: peers that come and go and together train one model."""
import warnings

# PyTorch's note to itself, when it is imported after this
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
