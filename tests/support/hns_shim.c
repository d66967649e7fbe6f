/* A library with the functions of vmcompute.dll, computenetwork.dll and CoTaskMemFree that talks to nothing: it
 * echoes what it was given, fails on request, and counts what it hands out, so that leaks and slips show.
 *
 * Settings that contain "fail" are refused with an error record; "record" gives a record beside a result of 0. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t unit;
typedef int32_t hresult;
typedef struct { uint8_t bytes[16]; } guid;
typedef struct { guid id; unit *settings; } object;

static int strings, handles;
static unit last[65536];
static guid last_id;

int shim_strings(void) { return strings; }
int shim_handles(void) { return handles; }
const unit *shim_last(void) { return last; }
const guid *shim_last_id(void) { return &last_id; }

void CoTaskMemFree(void *memory) {
  if (memory) strings--;
  free(memory);
}

static size_t length(const unit *text) {
  size_t n = 0;
  while (text[n]) n++;
  return n;
}

static unit *copy(const unit *text) {
  size_t bytes = (length(text) + 1) * sizeof(unit);
  unit *made = malloc(bytes);
  memcpy(made, text, bytes);
  strings++;
  return made;
}

static unit *ascii(const char *text) {
  unit wide[512];
  size_t n = strlen(text);
  for (size_t i = 0; i <= n; i++) wide[i] = (unit)(unsigned char)text[i];
  return copy(wide);
}

static int has(const unit *text, const char *word) {
  size_t n = strlen(word), m = length(text);
  for (size_t i = 0; i + n <= m; i++) {
    size_t j = 0;
    while (j < n && text[i + j] == (unit)word[j]) j++;
    if (j == n) return 1;
  }
  return 0;
}

static hresult take(const unit *text, unit **record) {
  memcpy(last, text, (length(text) + 1) * sizeof(unit));
  if (has(text, "fail")) {
    *record = ascii("{\"Success\":false,\"Error\":\"no such policy\",\"ErrorCode\":2151350285}");
    return (hresult)0x803B000D;
  }
  if (has(text, "record")) *record = ascii("{\"Error\":\"half done\",\"ErrorCode\":2151350316}");
  return 0;
}

static hresult hand_out(const guid *id, const unit *settings, object **handle) {
  object *made = malloc(sizeof *made);
  made->id = last_id = *id;
  made->settings = copy(settings);
  *handle = made;
  handles++;
  return 0;
}

hresult HNSCall(const unit *method, const unit *path, const unit *body, unit **answer) {
  memcpy(last, path, (length(path) + 1) * sizeof(unit));
  if (has(path, "broken")) return (hresult)0x800706BA;
  if (has(path, "fail")) {
    *answer = ascii("{\"Success\":false,\"Error\":\"reserved. \",\"ErrorCode\":2151350319}");
    return 0;
  }
  *answer = has(method, "POST") ? copy(body) : ascii("{\"Success\":true,\"Output\":[]}");
  return 0;
}

#define KIND(name, names)                                                                                    \
  hresult HcnEnumerate##names(const unit *query, unit **found, unit **record) {                              \
    hresult result = take(query, record);                                                                    \
    if (result == 0) *found = ascii("[\"00000001-0002-4003-8004-000000000005\"]");                           \
    return result;                                                                                           \
  }                                                                                                          \
  hresult HcnOpen##name(const guid *id, object **handle, unit **record) {                                    \
    static const unit nothing[] = {'{', '}', 0};                                                             \
    if (id->bytes[0] == 0xee) {                                                                              \
      *record = ascii("");                                                                                   \
      return (hresult)0x803B0002;                                                                            \
    }                                                                                                        \
    return hand_out(id, nothing, handle);                                                                    \
  }                                                                                                          \
  hresult HcnModify##name(object *handle, const unit *settings, unit **record) {                             \
    last_id = handle->id;                                                                                    \
    return take(settings, record);                                                                           \
  }                                                                                                          \
  hresult HcnQuery##name##Properties(object *handle, const unit *query, unit **found, unit **record) {       \
    if (has(handle->settings, "blind")) return take(handle->settings, record), (hresult)0x803B0001;          \
    *found = copy(handle->settings);                                                                         \
    return 0;                                                                                                \
  }                                                                                                          \
  hresult HcnDelete##name(const guid *id, unit **record) {                                                   \
    last_id = *id;                                                                                           \
    return 0;                                                                                                \
  }                                                                                                          \
  hresult HcnClose##name(object *handle) {                                                                   \
    CoTaskMemFree(handle->settings);                                                                         \
    free(handle);                                                                                            \
    handles--;                                                                                               \
    return 0;                                                                                                \
  }

#define CREATE(name)                                                                                         \
  hresult HcnCreate##name(const guid *id, const unit *settings, object **handle, unit **record) {            \
    hresult result = take(settings, record);                                                                 \
    return result ? result : hand_out(id, settings, handle);                                                 \
  }

KIND(Network, Networks)
KIND(Endpoint, Endpoints)
KIND(Namespace, Namespaces)
KIND(LoadBalancer, LoadBalancers)
CREATE(Network)
CREATE(Namespace)
CREATE(LoadBalancer)

hresult HcnCreateEndpoint(object *network, const guid *id, const unit *settings, object **handle, unit **record) {
  hresult result = take(settings, record);
  (void)network->id;
  return result ? result : hand_out(id, settings, handle);
}
