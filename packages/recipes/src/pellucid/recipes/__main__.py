"""`python -m pellucid.recipes`: a run, or a sweep of runs, configured by Hydra."""

from pellucid.recipes._hydra_app import main

if __name__ == "__main__":
    main()
