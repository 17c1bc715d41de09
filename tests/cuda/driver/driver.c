// A CUDA driver that has no GPU: what CuPy's compiled modules call through their C interface, for
// two devices of compute capability 9.0. Modules, functions and launches are Python's to answer.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

enum { capability_major = 75, capability_minor = 76, processors = 16 };

static int device = 0;
long halut_launches = 0;
// Callables that answer, or raise, in the driver's place; without `on_launch` nothing is run.
static PyObject *on_load = NULL, *on_function = NULL, *on_launch = NULL;

void halut_answer(PyObject* load, PyObject* function, PyObject* launch) {
  Py_XINCREF(load), Py_XINCREF(function), Py_XINCREF(launch);
  on_load = load, on_function = function, on_launch = launch == Py_None ? NULL : launch;
}

static intptr_t handle(PyObject* answer) {  // 0, and an exception, where a callable raised
  if (!answer) return 0;
  const intptr_t value = PyLong_AsSsize_t(answer);
  Py_DECREF(answer);
  return value;
}

intptr_t halut_moduleLoad(PyObject* path, int skip) {
  return handle(PyObject_CallFunctionObjArgs(on_load, path, NULL));
}

intptr_t halut_moduleGetFunction(intptr_t module, PyObject* name, int skip) {
  return handle(PyObject_CallFunction(on_function, "nO", module, name));
}

int halut_getDevice(int skip) { return device; }
int halut_getDeviceCount(int skip) { return 2; }
int halut_driverGetVersion(int skip) { return 13000; }

PyObject* halut_setDevice(int index, int skip) {
  device = index;
  Py_RETURN_NONE;
}

PyObject* halut_ensure_context(void) { Py_RETURN_NONE; }

int halut_deviceGetAttribute(int attribute, int index, int skip) {
  if (attribute == capability_major) return 9;
  if (attribute == capability_minor) return 0;
  return attribute == processors ? 132 : 1024;
}

PyObject* halut_moduleUnload(intptr_t module, int skip) { Py_RETURN_NONE; }

PyObject* halut_launchKernel(intptr_t function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                             unsigned by, unsigned bz, unsigned shared, intptr_t stream,
                             intptr_t arguments, intptr_t extra, int skip) {
  halut_launches++;
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || extra) {
    PyErr_SetString(PyExc_RuntimeError, "grids and blocks have one dimension");
    return NULL;
  }
  if (!on_launch) Py_RETURN_NONE;
  PyObject* done = PyObject_CallFunction(on_launch, "nIInn", function, gx, bx, stream, arguments);
  if (!done) return NULL;
  Py_DECREF(done);
  Py_RETURN_NONE;
}
