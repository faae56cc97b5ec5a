"""psg4d_ros: live 4D panoptic scene graphs from PointCloud2 streams.

Importing this package imports neither torch nor rclpy; both come with the modules that need them.
The generated interfaces (``psg4d_ros.msg``, ``psg4d_ros.srv``) live in another folder of the same
package name, so the path is extended rather than owned.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
