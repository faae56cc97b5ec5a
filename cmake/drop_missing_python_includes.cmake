# ROS wheels from PyPI were built in a container, and the CMake targets that they export name that container's Python headers
# (/opt/python/cp311-cp311/include/...). CMake refuses imported targets whose include directories do not exist. At the end of the
# configuration, when every find_package() of the generators has run, those directories are dropped from the imported targets;
# the generators add the headers of the Python that really builds by themselves. With ROS from apt there is nothing to drop.

function(_psg4d_drop_missing_python_includes)
  # Every directory that the generators opened has its own list of imported targets.
  set(pending "${CMAKE_CURRENT_SOURCE_DIR}")
  while(pending)
    list(POP_FRONT pending directory)
    get_property(subdirectories DIRECTORY "${directory}" PROPERTY SUBDIRECTORIES)
    list(APPEND pending ${subdirectories})
    get_property(targets DIRECTORY "${directory}" PROPERTY IMPORTED_TARGETS)
    foreach(target IN LISTS targets)
      get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
      if(NOT includes)
        continue()
      endif()
      set(kept "")
      foreach(include IN LISTS includes)
        if(NOT include MATCHES "^/opt/python/" OR EXISTS "${include}")
          list(APPEND kept "${include}")
        endif()
      endforeach()
      if(NOT kept STREQUAL includes)
        set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
      endif()
    endforeach()
  endwhile()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL _psg4d_drop_missing_python_includes)
