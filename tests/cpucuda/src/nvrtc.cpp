// NVRTC: compiles CUDA C++ with the host's g++ into a shared object.
//
// The source is preprocessed, rewritten in the few places where CUDA C++ is not
// C++ (see rewrite()), and given a list of its kernels.
#include "cpucuda.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

namespace {

enum { kOk = 0, kCompilation = 6, kNameNotValid = 10 };

struct Program {
  std::string source, name, log, image;
  std::vector<std::string> expressions;  // kernels to instantiate
};

std::string quoted(const std::string& s) {
  std::string r = "'";
  for (char c : s) c == '\'' ? r += "'\\''" : r += c;
  return r + "'";
}
void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
std::string read_file(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}
const char* env(const char* name, const char* otherwise) {
  const char* s = getenv(name);
  return s && *s ? s : otherwise;
}

// Our own directory holds lib/, include/ and shared.ld (see _build.py).
std::string home() {
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&home), &info);
  std::string path = info.dli_fname;
  for (int i = 0; i < 2; i++) path.erase(path.rfind('/'));
  return path;
}

struct TemporaryFolder {
  std::string path = std::string(env("TMPDIR", "/tmp")) + "/cpucuda-XXXXXX";
  TemporaryFolder() { if (!mkdtemp(path.data())) path.clear(); }
  ~TemporaryFolder() { if (!path.empty()) (void)!system(("rm -rf " + quoted(path)).c_str()); }
};

// ---- from CUDA C++ to C++ ------------------------------------------------------
bool is_word(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// The next occurrence of a word, as a whole word.
size_t find_word(const std::string& s, const std::string& word, size_t from = 0) {
  for (size_t at = s.find(word, from); at != std::string::npos; at = s.find(word, at + 1)) {
    size_t end = at + word.size();
    if ((!at || !is_word(s[at - 1])) && (end == s.size() || !is_word(s[end]))) return at;
  }
  return std::string::npos;
}

// Text on one line, without the preprocessor's line markers.
std::string flattened(const std::string& s) {
  std::string r;
  for (size_t begin = 0, end; begin < s.size(); begin = end + 1) {
    end = std::min(s.find('\n', begin), s.size());
    if (s[begin] != '#') r += s.substr(begin, end - begin) + " ";
  }
  return r;
}

// extern __shared__ T name[];  ->  T* const name = the launch's dynamic memory.
// Without extern, the macro __shared__ (see compile()) does what is needed.
void rewrite_shared(std::string& s) {
  for (size_t mark = 0; (mark = find_word(s, "__shared__", mark)) != std::string::npos; mark++) {
    size_t begin = s.find_last_of(";{}", mark) + 1;  // of the declaration
    size_t word = find_word(s.substr(begin, mark - begin), "extern"), end = s.find(';', mark);
    if (word == std::string::npos || end == std::string::npos) continue;
    size_t name = s.rfind('[', end);
    while (name && !is_word(s[name - 1])) name--;
    size_t name_end = name;
    while (name && is_word(s[name - 1])) name--;
    std::string with = s.substr(mark + 10, name - mark - 10) + "* const " +
                       s.substr(name, name_end - name) + " = cpucuda::DynamicShared{}";
    s.replace(begin + word, end - begin - word, with);
  }
}

// Each kernel is declared in front of its definition, and registered there: so
// its name is known whatever namespace it is in. Templates are left to name
// expressions.
void rewrite_kernels(std::string& s) {
  const std::string mark = "__global__";
  int number = 0;
  for (size_t at = 0; (at = find_word(s, mark, at)) != std::string::npos;) {
    s.erase(at, mark.size());
    size_t begin = s.find_last_of(";{}", at) + 1;
    size_t paren = s.find('(', at), end = paren;
    if (paren == std::string::npos) return;
    int depth = 0;
    do depth += (s[end] == '(') - (s[end] == ')'); while (depth && ++end < s.size());
    std::string head = flattened(s.substr(begin, end + 1 - begin));
    if (find_word(head, "template") != std::string::npos) continue;
    size_t name_end = paren, name;
    while (name_end && !is_word(s[name_end - 1])) name_end--;
    for (name = name_end; name && is_word(s[name - 1]);) name--;
    std::string f = s.substr(name, name_end - name);
    std::string added = head + "; static cpucuda::Register<&" + f + "> cpucuda_kernel_" +
                        std::to_string(number++) + "(\"" + f + "\"); ";
    // On the line where the declaration's first word is, past line markers.
    while (isspace(static_cast<unsigned char>(s[begin])) || s[begin] == '#')
      begin = s[begin] == '#' ? s.find('\n', begin) : begin + 1;
    s.insert(begin, added);
    at += added.size();
  }
}

std::string rewrite(std::string s, const std::vector<std::string>& expressions) {
  rewrite_shared(s);
  rewrite_kernels(s);
  s += "\n#line 1 \"cpucuda_kernels\"\nextern \"C\" { cpucuda::Entry* cpucuda_kernels; }\n";
  for (size_t i = 0; i < expressions.size(); i++)
    s += "static cpucuda::Register<(&" + expressions[i] + ")> cpucuda_expression_" +
         std::to_string(i) + "(R\"(" + expressions[i] + ")\", true);\n";
  return s +
         "extern \"C\" __attribute__((weak)) char cpucuda_shared_begin[], cpucuda_shared_end[];\n"
         "extern \"C\" char* const cpucuda_shared_range[2];\n"
         "char* const cpucuda_shared_range[2] = {cpucuda_shared_begin, cpucuda_shared_end};\n";
}
// Every __shared__ variable has a section of its own: g++ wants variables of
// templates and others apart. shared.ld brings them together.
const char* const kSharedMacro =
    "#define CPUCUDA_TEXT(x) #x\n"
    "#define CPUCUDA_SECTION(n) __attribute__((section(\"cpucuda_shared_\" CPUCUDA_TEXT(n))))\n"
    "#define __shared__ static CPUCUDA_SECTION(__COUNTER__)\n";

// ---- running g++ ------------------------------------------------------------------
// Runs a command; its standard output and error go into `log`.
bool run(const std::string& command, std::string* log) {
  FILE* p = popen((command + " 2>&1").c_str(), "r");
  if (!p) return false;
  char buffer[4096];
  while (size_t n = fread(buffer, 1, sizeof buffer, p)) log->append(buffer, n);
  return pclose(p) == 0;
}

// The preprocessor's options among NVRTC's, and the language standard. The
// others (architecture, fast math, ...) have no meaning here.
void translate_options(int n, const char** options, std::string* flags, std::string* standard) {
  for (int i = 0; i < n; i++) {
    std::string o = options[i], prefix = o.substr(0, 2);
    // Not the CUDA toolkit's own headers: include/ has its versions of them.
    if (prefix == "-I" && !access((o.substr(2) + "/cuda_runtime_api.h").c_str(), R_OK)) continue;
    if (prefix == "-I" || prefix == "-D" || prefix == "-U") *flags += " " + quoted(o);
    if (o == "-std=c++20" || o == "--std=c++20") *standard = "gnu++20";
  }
}

int compile(Program& p, int n, const char** options) {
  p.log.clear();
  if (p.source.find_first_not_of(" \t\r\n") == std::string::npos && p.expressions.empty()) {
    p.image = "// Generated by cpucuda " CPUCUDA_VERSION "\n";  // CuPy reads the compiler's version here
    return kOk;
  }
  std::string flags, standard = "gnu++17", root = home();
  translate_options(n, options, &flags, &standard);
  TemporaryFolder folder;
  if (folder.path.empty()) { p.log = "cannot make a temporary folder"; return kCompilation; }
  std::string in = folder.path + "/kernel.cpp", preprocessed = folder.path + "/preprocessed",
              rewritten = folder.path + "/rewritten.cpp", out = folder.path + "/kernel.so";
  write_file(in, "#line 1 \"" + (p.name.empty() ? "default_program" : p.name) + "\"\n" + p.source);
  std::string common = std::string(env("CPUCUDA_CXX", "g++")) + " -fno-strict-aliasing -fwrapv -std=" + standard;
  // Without the special functions of <cmath>, which no kernel needs and which
  // take a third of the time.
  const char* const lean = " -w -E -D_GLIBCXX_BITS_SPECFUN_H=1 -I";
  if (!run(common + lean + quoted(root + "/include") + flags + " -include cpucuda_device.h " +
               quoted(in) + " -o " + quoted(preprocessed), &p.log))
    return kCompilation;
  write_file(rewritten, kSharedMacro + rewrite(read_file(preprocessed), p.expressions));
  if (!run(common + " -O" + env("CPUCUDA_OPTIMIZE", "2") +
               " -fsanitize=bounds -fsanitize-undefined-trap-on-error -fPIC -shared -fno-gnu-unique -fno-threadsafe-statics -Wl,-Bsymbolic -Wl,-T," +
               quoted(root + "/shared.ld") + " " + quoted(rewritten) + " -o " + quoted(out), &p.log)) {
    if (const char* keep = getenv("CPUCUDA_KEEP")) write_file(keep, read_file(rewritten));
    return kCompilation;
  }
  std::string elf = read_file(out);
  uint64_t size = elf.size();
  p.image = std::string(kImageMagic, sizeof kImageMagic) + std::string(reinterpret_cast<char*>(&size), 8) + elf;
  return kOk;
}

}  // namespace

API const char* nvrtcGetErrorString(int code) { return code == kOk ? "NVRTC_SUCCESS" : "NVRTC_ERROR_COMPILATION"; }
API int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 0; return kOk; }
API int nvrtcGetNumSupportedArchs(int* n) { *n = 1; return kOk; }
API int nvrtcGetSupportedArchs(int* a) { *a = compute_capability(); return kOk; }
API int nvrtcCreateProgram(Program** out, const char* source, const char* name, int, const char**, const char**) {
  *out = new Program;
  (*out)->source = source;
  (*out)->name = name ? name : "";
  return kOk;
}
API int nvrtcDestroyProgram(Program** p) { delete *p; return kOk; }
API int nvrtcAddNameExpression(Program* p, const char* e) { p->expressions.push_back(e); return kOk; }
API int nvrtcCompileProgram(Program* p, int n, const char** options) { return compile(*p, n, options); }
API int nvrtcGetLoweredName(Program* p, const char* e, const char** name) {
  for (auto& expression : p->expressions)  // the name that cuModuleGetFunction will know
    if (expression == e) { *name = expression.c_str(); return kOk; }
  return kNameNotValid;
}
API int nvrtcGetCUBINSize(Program* p, size_t* n) { *n = p->image.size(); return kOk; }
API int nvrtcGetCUBIN(Program* p, char* out) { memcpy(out, p->image.data(), p->image.size()); return kOk; }
API int nvrtcGetPTXSize(Program* p, size_t* n) { *n = p->image.size() + 1; return kOk; }
API int nvrtcGetPTX(Program* p, char* out) { memcpy(out, p->image.c_str(), p->image.size() + 1); return kOk; }
API int nvrtcGetProgramLogSize(Program* p, size_t* n) { *n = p->log.size() + 1; return kOk; }
API int nvrtcGetProgramLog(Program* p, char* out) { memcpy(out, p->log.c_str(), p->log.size() + 1); return kOk; }
