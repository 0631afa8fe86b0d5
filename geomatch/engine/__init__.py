"""What does the work, this machine's processes or a Ray cluster; a `Task` does not know which."""

from geomatch.engine.context import RunContext as RunContext
from geomatch.engine.context import create_engine as create_engine
from geomatch.engine.local import LocalEngine as LocalEngine
from geomatch.engine.run import Work as Work
from geomatch.engine.stream import StreamTask as StreamTask
from geomatch.engine.task import BlockTask as BlockTask
from geomatch.engine.task import Engine as Engine
from geomatch.engine.task import FailedBlock as FailedBlock
from geomatch.engine.task import FailedItem as FailedItem
from geomatch.engine.task import Task as Task
