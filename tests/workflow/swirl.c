/* A custom operator for tests: my.ops::Swirl (x) = x * |x|, built without ONNX Runtime's headers.

   OrtApi is a table of functions that only grows; these are the places of those that an operator needs. */
#include <stddef.h>
#include <stdint.h>

enum { CREATE_DOMAIN = 26, ADD_OPERATOR = 27, ADD_DOMAIN = 28, TENSOR_DATA = 51, DIM_COUNT = 61, DIMS = 62, SIZE = 64,
       SHAPE = 65, INPUT = 90, OUTPUT = 91, RELEASE_SHAPE = 99, API_VERSION = 8, FLOAT = 1 };

typedef void* (*Function)(void*, ...);
typedef struct { const Function* (*get_api)(uint32_t); const char* (*get_version)(void); } ApiBase;
typedef struct Operator {
  uint32_t version;
  void* (*create)(const struct Operator*, const Function*, const void*);
  const char* (*name)(const struct Operator*);
  const char* (*provider)(const struct Operator*);
  int (*input_type)(const struct Operator*, size_t);
  size_t (*input_count)(const struct Operator*);
  int (*output_type)(const struct Operator*, size_t);
  size_t (*output_count)(const struct Operator*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_kind)(const struct Operator*, size_t);
  int (*output_kind)(const struct Operator*, size_t);
} Operator;

static const Function* api;

static void* create(const Operator* op, const Function* given, const void* info) { return (void*)op; }
static void destroy(void* kernel) {}
static const char* name(const Operator* op) { return "Swirl"; }
static const char* provider(const Operator* op) { return NULL; }
static int type(const Operator* op, size_t index) { return FLOAT; }
static size_t one(const Operator* op) { return 1; }
static int required(const Operator* op, size_t index) { return 0; }

static void compute(void* kernel, void* context) {
  void *in, *out, *shape;
  float *x, *y;
  size_t rank, count;
  int64_t dims[8];
  api[INPUT](context, (size_t)0, &in);
  api[SHAPE](in, &shape);
  api[DIM_COUNT](shape, &rank);
  api[DIMS](shape, dims, rank);
  api[SIZE](shape, &count);
  api[RELEASE_SHAPE](shape);
  api[OUTPUT](context, (size_t)0, dims, rank, &out);
  api[TENSOR_DATA](in, &x);
  api[TENSOR_DATA](out, &y);
  for (size_t i = 0; i < count; i++) y[i] = x[i] < 0 ? -x[i] * x[i] : x[i] * x[i];
}

static const Operator swirl = {API_VERSION, create,  name,    provider, type,     one,
                               type,        one,     compute, destroy,  required, required};

void* RegisterCustomOps(void* options, const ApiBase* base) {
  void *domain, *status;
  api = base->get_api(API_VERSION);
  status = ((void* (*)(const char*, void**))api[CREATE_DOMAIN])("my.ops", &domain);
  if (!status) status = api[ADD_OPERATOR](domain, &swirl);
  return status ? status : api[ADD_DOMAIN](options, domain);
}
