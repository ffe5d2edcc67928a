# The search: its plan, and its kernels on the shim. Included by CMakeLists.txt beside it, where there is a shim.
foreach(name bound order plan search select)
  add_executable(test_topk_${name} test_topk_${name}.cpp ${PROJECT_SOURCE_DIR}/csrc/cuda/topk/plan.cpp)
  target_link_libraries(test_topk_${name} PRIVATE fct_shim)
  target_include_directories(test_topk_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/csrc)
  add_test(NAME cuda_topk_${name} COMMAND test_topk_${name})
endforeach()

add_executable(test_topk_cpu test_topk_cpu.cpp ${PROJECT_SOURCE_DIR}/csrc/cuda/topk/plan.cpp)
target_link_libraries(test_topk_cpu PRIVATE fct_shim fct_core)
target_include_directories(test_topk_cpu PRIVATE ${PROJECT_SOURCE_DIR}/tests/csrc)
add_test(NAME cuda_topk_cpu COMMAND test_topk_cpu)
