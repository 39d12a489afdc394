"""What a run will need on devices that aren't there: `jaxsft plan`."""

from jaxsft.cli.programs import plan

if __name__ == "__main__":
    plan.start()
