#include "file.h"

#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace gace {

namespace {

constexpr const char *NO_FILE = " is no *.gace: `gace export BUNDLE --out FILE.gace` writes one";
constexpr uint64_t LONGEST_HEADER = 100 << 20;  // as the format says

// The header, as far as the format asks for it: objects of strings, numbers, lists of numbers and such objects.
class Header {
 public:
  Header(const std::string &text, const std::string &path) : text(text), path(path) {}

  void expect(char c) {
    if (next() != c) fail();
    ++at;
  }

  bool take(char c) {
    if (next() != c) return false;
    ++at;
    return true;
  }

  std::string string() {
    expect('"');
    std::string found;
    while (at < text.size() && text[at] != '"') {
      if (text[at] == '\\') ++at;  // quotes and backslashes: there are no other escapes in what gace writes
      if (at < text.size()) found += text[at++];
    }
    expect('"');
    return found;
  }

  int64_t number() {
    next();
    char *end = nullptr;
    errno = 0;
    const long long found = std::strtoll(text.c_str() + at, &end, 10);
    if (end == text.c_str() + at || errno != 0 || found < 0) fail();
    at = end - text.c_str();
    return found;
  }

  std::vector<int64_t> numbers() {
    std::vector<int64_t> found;
    expect('[');
    if (take(']')) return found;
    do found.push_back(number());
    while (take(','));
    expect(']');
    return found;
  }

  [[noreturn]] void fail() const { throw Error(path + " is damaged, its header cannot be read: copy or export it again"); }

 private:
  const std::string &text, &path;
  size_t at = 0;

  char next() {
    while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
    return at < text.size() ? text[at] : '\0';
  }
};

std::shared_ptr<char> aligned(int64_t bytes) {
  void *memory = nullptr;
  if (posix_memalign(&memory, 64, bytes > 0 ? bytes : 64) != 0) throw std::bad_alloc();
  return std::shared_ptr<char>(static_cast<char *>(memory), std::free);
}

// CRC-32 of ISO 3309, as zlib has it.
class Checksum {
 public:
  Checksum() {
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      table[i] = c;
    }
  }

  void add(const char *bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) sum = table[(sum ^ static_cast<unsigned char>(bytes[i])) & 255] ^ (sum >> 8);
  }

  void add(const std::string &text) { add(text.data(), text.size()); }

  std::string text() const { return std::to_string(sum ^ 0xffffffffu); }

 private:
  uint32_t table[256], sum = 0xffffffffu;
};

struct Opened {
  std::FILE *file;
  explicit Opened(const std::string &path) : file(std::fopen(path.c_str(), "rb")) {
    if (file == nullptr) throw Error("cannot read " + path + ": " + std::strerror(errno));
  }
  ~Opened() { std::fclose(file); }
};

}  // namespace

int64_t Array::count() const {
  int64_t n = 1;
  for (int64_t one : shape) n *= one;
  return n;
}

File::File(const std::string &path) : path(path) {
  Opened opened(path);
  uint64_t length = 0;
  if (std::fread(&length, sizeof length, 1, opened.file) != 1 || length > LONGEST_HEADER)
    throw Error(path + NO_FILE);
  std::string text(length, '\0');
  if (std::fread(&text[0], 1, length, opened.file) != length) throw Error(path + " is cut short: copy or export it again");
  std::vector<char> block(1 << 16);
  Checksum checksum;
  for (size_t n; (n = std::fread(block.data(), 1, block.size(), opened.file)) > 0;) checksum.add(block.data(), n);
  const int64_t end = std::ftell(opened.file);
  std::string stated, described;
  Header header(text, path);
  header.expect('{');
  if (header.take('}')) return;
  do {
    const std::string name = header.string();
    header.expect(':');
    header.expect('{');
    Array one;
    std::vector<int64_t> range;
    if (!header.take('}')) {
      do {
        const std::string key = header.string();
        header.expect(':');
        if (name == "__metadata__") {
          const std::string value = header.string();
          if (key != "gace") continue;
          const size_t space = value.find(' ');  // the checksum, then what the file says of itself
          stated = value.substr(0, space), described = space < value.size() ? value.substr(space + 1) : "";
        } else if (key == "dtype")
          one.dtype = header.string();
        else if (key == "shape")
          one.shape = header.numbers();
        else if (key == "data_offsets")
          range = header.numbers();
        else
          header.fail();
      } while (header.take(','));
      header.expect('}');
    }
    if (name == "__metadata__") continue;
    const int64_t width = one.dtype == "F32" || one.dtype == "I32" ? 4 : one.dtype == "F64" || one.dtype == "I64" ? 8 : 0;
    int64_t numbers = 1;  // counted with care: a damaged header may say anything
    for (int64_t side : one.shape)
      if (__builtin_mul_overflow(numbers, side, &numbers)) header.fail();
    if (range.size() != 2 || range[1] < range[0] || __builtin_mul_overflow(numbers, width, &one.bytes) ||
        one.bytes != range[1] - range[0])
      header.fail();
    if (static_cast<int64_t>(8 + length) + range[1] > end) throw Error(path + " is cut short: copy or export it again");
    std::fseek(opened.file, 8 + length + range[0], SEEK_SET);
    one.memory = aligned(one.bytes);
    if (one.bytes > 0 && std::fread(one.memory.get(), one.bytes, 1, opened.file) != 1)
      throw Error(path + " is cut short: copy or export it again");
    arrays.emplace(name, std::move(one));
  } while (header.take(','));
  header.expect('}');
  if (stated.empty()) throw Error(path + NO_FILE);
  checksum.add(described);
  for (const auto &[name, one] : arrays) {
    checksum.add(name + ":" + one.dtype);
    for (int64_t side : one.shape) checksum.add(" " + std::to_string(side));
  }
  if (stated != checksum.text()) throw Error(path + " is damaged, its checksum is another one than it states: copy or export it again");
}

const Array &File::array(const std::string &name) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) throw Error(path + NO_FILE + " (it lacks '" + name + "')");
  return found->second;
}

const Array &File::typed(const std::string &name, const char *dtype) const {
  const Array &found = array(name);
  if (found.dtype != dtype)
    throw Error(path + " is damaged: '" + name + "' is " + found.dtype + " and should be " + dtype);
  return found;
}

std::vector<int64_t> File::integers(const std::string &name) const {
  const int64_t *first = get<int64_t>(name);
  return std::vector<int64_t>(first, first + count(name));
}

void File::expect(const std::string &name, int64_t expected) const {
  if (count(name) != expected)
    throw Error(path + " is damaged: '" + name + "' holds " + std::to_string(count(name)) + " numbers, not " +
                std::to_string(expected));
}

}  // namespace gace
