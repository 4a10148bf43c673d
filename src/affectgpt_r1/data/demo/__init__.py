"""Synthetic clips in the published layout, for running the whole job without gated data."""

from affectgpt_r1.data.demo.labels import demo_texts
from affectgpt_r1.data.demo.render import render_demo
from affectgpt_r1.data.demo.settings import DemoSettings

__all__ = ["DemoSettings", "demo_texts", "render_demo"]
