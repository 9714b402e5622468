import sys
from pathlib import Path

# The import mode of this workspace keeps test folders off the path.
sys.path.append(str(Path(__file__).parent))
