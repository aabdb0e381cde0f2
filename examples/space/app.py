"""The demo as a Space: Hugging Face runs this file."""

from mose.demo.app import shipped_demo

demo = shipped_demo()

if __name__ == "__main__":
    demo.launch()
