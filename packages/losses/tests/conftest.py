import sys
from pathlib import Path

from hypothesis import settings

# The import mode of this workspace keeps test folders off the path; samples lie beside the tests.
sys.path.append(str(Path(__file__).parent))

# The first call of a torch function may import for seconds.
settings.register_profile("torch", deadline=None)
settings.load_profile("torch")
