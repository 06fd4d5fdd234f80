// What JavaScript can call.
#pragma once

#define EXPORT(name) __attribute__((export_name(#name)))
