// libcuda.so.1 of a machine with one GPU; the environment says which.
#include <cstdlib>

static int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

extern "C" {

int cuInit(unsigned flags) { return int(flags) + number("FAKE_DRIVER_ERROR", 0); }

int cuDriverGetVersion(int* to) {
  *to = number("FAKE_DRIVER_VERSION", 13000);
  return 0;
}

int cuDeviceGet(int* to, int device) {
  *to = device;
  return 0;
}

int cuDeviceGetAttribute(int* to, int attribute, int device) {
  const int capability = number("FAKE_CAPABILITY", 80);
  *to = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
  return device;
}
}
