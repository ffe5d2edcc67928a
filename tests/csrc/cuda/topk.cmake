# The search's kernels on the shim; included by CMakeLists.txt beside it.
set(FCT_TOPK_PLAN ${PROJECT_SOURCE_DIR}/csrc/cuda/topk/plan.cpp)
foreach(name search)
  add_executable(test_topk_${name} test_topk_${name}.cpp ${FCT_TOPK_PLAN})
  target_link_libraries(test_topk_${name} PRIVATE fct_shim)
  target_include_directories(test_topk_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/csrc)
  add_test(NAME cuda_topk_${name} COMMAND test_topk_${name})
endforeach()
