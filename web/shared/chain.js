/** Calls `after` each time after a method of this object. */
export function chain(object, name, after) {
    const before = object[name];
    object[name] = function (...values) {
        const result = before?.apply(this, values);
        after.apply(this, values);
        return result;
    };
}
