# The search: its plan, and its kernels on the shim. Included by CMakeLists.txt beside it, where there is a shim.
foreach(name bound cpu order plan search select wgmma_pipeline)
  add_executable(test_topk_${name} test_topk_${name}.cpp)
  target_link_libraries(test_topk_${name} PRIVATE fct_shim fct_cuda_host)
  target_include_directories(test_topk_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/csrc)
  add_test(NAME cuda_topk_${name} COMMAND test_topk_${name})
endforeach()
target_link_libraries(test_topk_cpu PRIVATE fct_core)
