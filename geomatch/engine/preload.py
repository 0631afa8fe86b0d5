"""Imported once by the server that workers are forked from: what takes long to import."""

import cv2 as cv2
import torch as torch
